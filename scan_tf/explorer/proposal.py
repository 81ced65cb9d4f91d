"""What corrections would change: a classifier that heeds them, and the images that it moves."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from scan_tf.explorer import refit
from scan_tf.explorer.corrections import NONE, UNSURE, State
from scan_tf.explorer.findings import Findings
from scan_tf.pipeline import corrected
from scan_tf.pipeline.corrected import Corrected


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """A classifier that can be accepted.

    Attributes:
        classifier: it.
        group: int32 [N], the group that it puts each image into; what a user has said holds.
        changed: int64 [n], images that it shows in another group than now, the surest first.
        confidence: float32 [n], of those.
        counts: a row for each group: id, before, after, came and went.
    """

    classifier: Corrected
    group: np.ndarray
    changed: np.ndarray
    confidence: np.ndarray
    counts: list[dict[str, int]]

    def told(self, now: Findings, most: int) -> dict[str, Any]:
        """What the page shows of it, JSON-able, with at most so many of the images."""
        rows = self.changed[:most]
        below = self.classifier.below
        return {
            "changed": len(self.changed),
            "rows": [
                {
                    "row": int(row),
                    "from": int(now.group[row]),
                    "to": int(self.group[row]),
                    "confidence": round(float(sure), 4),
                }
                for row, sure in zip(rows, self.confidence[:most], strict=True)
            ],
            "counts": self.counts,
            "below": None if below is None else round(below[0], 4),
            "facts": self.classifier.facts,
        }


def propose(
    features: np.ndarray,
    own: np.ndarray,
    state: State,
    now: Findings,
    *,
    split: str,
    distance: np.ndarray | None,
    doubt: tuple[float, float] | None,
    seq: int,
) -> Proposal:
    """Fit a classifier with the corrections.

    Args:
        features: float32 [N,D].
        own: float32 [N,C], the probabilities that the run itself gives to its clusters.
        state: the corrections.
        now: what is shown.
        split: of the images.
        distance: float32 [N] from the images that were learned from; None: unknown.
        doubt: the confidence below which, and the distance above which an image is none of the
            kinds; None: none ever is.
        seq: the number of the last correction.
    """
    groups = np.array(state.groups)
    place = np.full(groups.max() + 1, -1)
    place[groups] = np.arange(len(groups))
    found = _own(own, state, place, len(groups))
    labels = state.resolved(state.labels)
    said = np.where(labels >= 0, place[np.maximum(labels, 0)], -1)
    none, unsure = labels == NONE, labels == UNSURE
    kernel, bias = refit.fit(features, found, said, none=none, unsure=unsure)
    rows = np.flatnonzero((said >= 0) | none)
    classifier = Corrected(
        kernel=kernel,
        bias=bias,
        groups=tuple(groups.tolist()),
        split=split,
        rows=rows,
        clusters=np.where(none[rows], corrected.NONE, said[rows]),
        below=None,
        facts={
            "said": int((said >= 0).sum()),
            "none": int(none.sum()),
            "unsure": int(unsure.sum()),
            "seq": seq,
        },
    )
    alone = classifier.probs(features, said=False)
    if doubt is not None and none.any():
        below = _below(alone.max(axis=1), none, distance, doubt)
        classifier = dataclasses.replace(classifier, below=below)
    group = groups[classifier.probs(features, said=True).argmax(axis=1)].astype(np.int32)
    moved = (group != now.group) & ~none
    changed = np.flatnonzero(moved)
    changed = changed[np.argsort(-alone[changed].max(axis=1), kind="stable")]
    counts = [
        {
            "id": int(g),
            "before": int((now.group == g).sum()),
            "after": int((group == g).sum()),
            "came": int((moved & (group == g)).sum()),
            "went": int((moved & (now.group == g)).sum()),
        }
        for g in groups
    ]
    return Proposal(classifier, group, changed, alone[changed].max(axis=1), counts)


def _own(own: np.ndarray, state: State, place: np.ndarray, count: int) -> np.ndarray:
    """What the run itself finds, by the groups that there are, float32 [N,G]."""
    mass = np.zeros((len(own), count), np.float32)
    of_column = state.resolved(np.arange(own.shape[1], dtype=np.int32))
    for column, group in enumerate(of_column.tolist()):
        mass[:, place[group]] += own[:, column]
    soft = state.resolved(state.soft_ever)
    rows = np.flatnonzero(soft >= 0)
    # What a split has put elsewhere takes the probability of its group along.
    best, target = mass[rows].argmax(axis=1), place[soft[rows]]
    taken = mass[rows, best].copy()
    mass[rows, best] = 0
    mass[rows, target] += taken
    return mass


def _below(
    confidence: np.ndarray,
    none: np.ndarray,
    distance: np.ndarray | None,
    doubt: tuple[float, float],
) -> tuple[float, str] | None:
    """The threshold that the images that are none ask for; None: the usual one does."""
    before, far = doubt
    if distance is not None:  # those that are unlike all others are told by that
        none = none & ~(distance > np.float32(far))
    if not none.any():
        return None
    below = refit.threshold(confidence, none, before)
    if below == before:
        return None
    count = int(none.sum())
    images = "1 image that was" if count == 1 else f"{count:,} images that were"
    return below, f"by {images} said to be none of the kinds"
