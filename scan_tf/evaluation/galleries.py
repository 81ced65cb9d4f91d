"""Which images to look at of each cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Images of one cluster; rows int64 [n], n at most what was asked for.

    Attributes:
        typical: nearest to the mean direction of the cluster's features; none without features, or
            where `most` shows the whole cluster.
        most: those of the highest confidence, falling.
        least: those of the lowest, rising, without what `most` shows already.
        borderline: where this cluster and another are the two most probable and nearly level, of
            both sides of the border, the closest call first; none without probabilities.
    """

    typical: np.ndarray
    most: np.ndarray
    least: np.ndarray
    borderline: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """All of them."""
        return np.concatenate([self.typical, self.most, self.least, self.borderline])


def choose(
    clusters: np.ndarray,
    confidence: np.ndarray,
    *,
    num_clusters: int,
    per_kind: int,
    features: np.ndarray | None = None,
    second: np.ndarray | None = None,
    lead: np.ndarray | None = None,
) -> Iterator[Gallery]:
    """Choose at most `per_kind` images of each kind, for one cluster after another.

    Args:
        clusters: int [N] in 0..num_clusters-1.
        confidence: float [N] in 0..1.
        num_clusters: how many there are, empty ones included.
        per_kind: images of each kind.
        features: float [N,D], of which the typical images are told.
        second: int [N], the cluster that is the second most probable.
        lead: float [N], by how much the most probable cluster leads.
    """
    none = np.empty(0, np.int64)
    for cluster in range(num_clusters):
        members = np.flatnonzero(clusters == cluster)
        rising = members[np.argsort(confidence[members], kind="stable")]
        falling = members[np.argsort(-confidence[members], kind="stable")]
        least = rising[: min(per_kind, max(0, len(members) - per_kind))]
        typical, borderline = none, none
        if features is not None and len(members) > per_kind:
            typical = members[_nearest_to_mean(features[members], per_kind)]
        if second is not None and lead is not None:
            either = np.flatnonzero((clusters == cluster) | (second == cluster))
            borderline = either[np.argsort(lead[either], kind="stable")[:per_kind]]
        yield Gallery(typical, falling[:per_kind], least, borderline)


def runners_up(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second most probable cluster int64 [N], and the lead float32 [N] of the first over it.

    `probs` is float [N,C] with C >= 2.
    """
    top = np.argpartition(probs, -2, axis=1)[:, -2:]
    values = np.take_along_axis(probs, top, axis=1)
    first = probs.argmax(axis=1)
    second = np.where(top[:, 1] == first, top[:, 0], top[:, 1])
    return second.astype(np.int64), np.abs(values[:, 1] - values[:, 0]).astype(np.float32)


def _nearest_to_mean(features: np.ndarray, count: int) -> np.ndarray:
    """Places of the rows with the highest cosine to the mean of the unit rows."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return np.argsort(-(unit @ unit.mean(axis=0)), kind="stable")[:count]
