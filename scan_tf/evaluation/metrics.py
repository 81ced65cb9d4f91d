"""Scores of features and clusterings (SCAN, section 3; reference numbers in the README).

Labels appear in this module only. NumPy, SciPy and scikit-learn do the work; everything that
would need N x N values runs in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from scan_tf.errors import DataError

_BLOCK = 500


def cluster_scores(
    labels: np.ndarray | None,
    clusters: np.ndarray,
    *,
    num_clusters: int | None = None,
    num_classes: int | None = None,
    probs: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score a clustering, against labels where there are any.

    ACC is the accuracy after mapping clusters to classes: one to one by Hungarian matching, or by
    majority vote where there are more clusters than classes (SCAN, section 3, overclustering).
    NMI (arithmetic mean) and ARI compare the raw cluster ids. Raises DataError where lengths
    differ or values are out of range.

    Args:
        labels: int64 [N] in 0..num_classes-1, or None.
        clusters: int [N] in 0..num_clusters-1.
        num_clusters: how many clusters there are, empty ones included; None: the columns of
            `probs`, or up to the highest number in `clusters`.
        num_classes: how many classes there are; None: up to the highest number in `labels`.
        probs: float32 [N, num_clusters], rows sum to 1.

    Returns:
        acc, nmi, ari in 0..1; top5: is the class that of one of the 5 most probable clusters
        (with `probs`, 5 clusters and a one-to-one mapping only); matching: "hungarian" or
        "majority_vote"; mapping: list cluster -> class, as `match` gives it. All of these are
        None without labels. num_clusters_used, cluster_sizes; with `probs` also mean_confidence
        and mean_entropy: the entropy in nats of the mean prediction, at most ln num_clusters.
    """
    if num_clusters is None and probs is not None:
        num_clusters = probs.shape[1]
    clusters = ids(clusters, num_clusters, "clusters")
    num_clusters = num_clusters or int(clusters.max()) + 1
    sizes = np.bincount(clusters, minlength=num_clusters)
    scores: dict[str, Any] = dict.fromkeys(("acc", "nmi", "ari", "top5", "matching", "mapping"))
    if labels is not None:
        labels = ids(labels, num_classes, "labels")
        num_classes = num_classes or int(labels.max()) + 1
        same_length(labels=labels, clusters=clusters)
        mapping, scores["matching"] = match(labels, clusters, num_clusters, num_classes)
        scores["mapping"] = mapping
        scores["acc"] = float((to_classes(clusters, mapping) == labels).mean())
        scores["nmi"] = float(normalized_mutual_info_score(labels, clusters))
        scores["ari"] = float(adjusted_rand_score(labels, clusters))
        if probs is not None and num_clusters >= 5 and scores["matching"] == "hungarian":
            same_length(labels=labels, probs=probs)
            top = to_classes(np.argpartition(probs, -5, axis=1)[:, -5:], mapping)
            scores["top5"] = float((top == labels[:, None]).any(axis=1).mean())
    scores["num_clusters_used"] = int((sizes > 0).sum())
    scores["cluster_sizes"] = sizes.tolist()
    if probs is not None:
        scores["mean_confidence"] = float(probs.max(axis=1).mean())
        scores["mean_entropy"] = _entropy(probs.mean(axis=0, dtype=np.float64))
    return scores


def match(
    labels: np.ndarray, clusters: np.ndarray, num_clusters: int, num_classes: int
) -> tuple[list[int | None], str]:
    """Map clusters to classes: the list cluster -> class (None: unknown), and how it was made.

    Up to as many clusters as classes, the one-to-one mapping with the most hits ("hungarian"; the
    class of an empty cluster is whatever is left). With more clusters, the commonest class of
    each ("majority_vote"): only this lets several clusters share a class.
    """
    votes = np.zeros((num_clusters, num_classes), np.int64)
    np.add.at(votes, (clusters, labels), 1)
    if num_clusters <= num_classes:
        return linear_sum_assignment(votes, maximize=True)[1].tolist(), "hungarian"
    return [int(row.argmax()) if row.any() else None for row in votes], "majority_vote"


def to_classes(clusters: np.ndarray, mapping: Sequence[int | None]) -> np.ndarray:
    """The class int64 [N] of each image by a `mapping` of `match`; -1 where it has none."""
    table = np.array([-1 if c is None else c for c in mapping], np.int64)
    return np.asarray(table[clusters])


def mapping_rows(
    labels: np.ndarray | None,
    clusters: np.ndarray,
    mapping: Sequence[int | None] | None,
    *,
    num_clusters: int,
) -> list[tuple[int, int | None, int, float | None]]:
    """For each cluster its number, its class by a `mapping` of `match`, size, and purity.

    Purity is the share 0..1 of the class among the images of the cluster; None for an empty
    cluster, and with the class where there are no labels. Raises DataError where lengths differ or
    values are out of range.
    """
    clusters = ids(clusters, num_clusters, "clusters")
    sizes = np.bincount(clusters, minlength=num_clusters).tolist()
    if labels is None or mapping is None:
        return [(cluster, None, size, None) for cluster, size in enumerate(sizes)]
    same_length(labels=labels, clusters=clusters)
    right = clusters[to_classes(clusters, mapping) == labels]
    hits = np.bincount(right, minlength=num_clusters).tolist()
    return [
        (cluster, mapping[cluster], size, hits[cluster] / size if size else None)
        for cluster, size in enumerate(sizes)
    ]


def confusion(labels: np.ndarray, predicted_classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix int64 [num_classes, num_classes], rows are the true classes.

    Images of the predicted class -1 (a cluster without a class) are left out. Raises DataError
    where lengths differ or values are out of range.
    """
    same_length(labels=labels, predicted_classes=predicted_classes)
    shape = (num_classes, num_classes + 1)  # column 0 for the class -1
    true = ids(labels, num_classes, "labels")
    column = ids(predicted_classes + 1, num_classes + 1, "predicted_classes + 1")
    return np.bincount(true * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)[
        :, 1:
    ]


def selection_loss(probs: np.ndarray, neighbor_indices: np.ndarray) -> tuple[float, float, float]:
    """The label-free loss by which epoch and head are chosen; the lowest is best.

    As the official configuration does: the consistency over the neighbours, the image itself
    included, minus 1.0 times the entropy of the mean prediction (lambda is not applied). Takes
    probs float32 [N, C] and neighbour indices int [N, K+1] into the same images; returns total,
    consistency, entropy. Raises DataError where lengths differ.
    """
    same_length(probs=probs, neighbor_indices=neighbor_indices)
    loss = 0.0
    for low in range(0, len(probs), _BLOCK):
        rows = slice(low, low + _BLOCK)
        dots = np.einsum("nc,nkc->nk", probs[rows], probs[neighbor_indices[rows]])
        with np.errstate(divide="ignore"):
            # The official loss is a binary cross-entropy, which clamps the logarithm at -100.
            loss -= float(np.maximum(np.log(dots), -100.0).sum(dtype=np.float64))
    consistency = loss / neighbor_indices.size
    entropy = _entropy(probs.mean(axis=0, dtype=np.float64))
    return consistency - entropy, consistency, entropy


def prototypes(probs: np.ndarray, features: np.ndarray, per_cluster: int = 10) -> np.ndarray:
    """The image that stands for each cluster: int64 [C], -1 for a cluster without images.

    Among the `per_cluster` most confident images of the cluster, the one nearest to the mean of
    their backbone features (SCAN, section 3, prototypes). Takes probs float32 [N, C] and features
    float32 [N, D]; raises DataError where their lengths differ.
    """
    same_length(probs=probs, features=features)
    clusters, confidence = probs.argmax(axis=1), probs.max(axis=1)
    chosen = np.full(probs.shape[1], -1, np.int64)
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        top = members[np.argsort(-confidence[members], kind="stable")[:per_cluster]]
        distance = np.linalg.norm(features[top] - features[top].mean(axis=0), axis=1)
        chosen[cluster] = top[distance.argmin()]
    return chosen


def without_labels(
    probs: np.ndarray, features: np.ndarray, *, seed: int = 0, sample: int = 2000
) -> dict[str, Any]:
    """What can be said without labels of probs float32 [N, C] and features float32 [N, D].

    Returns:
        cluster_sizes, num_clusters_used, mean_confidence, confident (share of images above 0.99,
        the threshold of self-labelling), size_entropy (nats, at most ln C), silhouette (-1..1, on
        `sample` random images; None where they are of one cluster, or each of its own).
        Raises DataError where lengths differ.
    """
    same_length(probs=probs, features=features)
    clusters, confidence = probs.argmax(axis=1), probs.max(axis=1)
    sizes = np.bincount(clusters, minlength=probs.shape[1])
    rows = np.random.default_rng(seed).permutation(len(probs))[:sample]
    seen = len(np.unique(clusters[rows]))
    possible = 2 <= seen < len(rows)
    return {
        "cluster_sizes": sizes.tolist(),
        "num_clusters_used": int((sizes > 0).sum()),
        "mean_confidence": float(confidence.mean()),
        "confident": float((confidence > 0.99).mean()),
        "size_entropy": _entropy(sizes / len(probs)),
        "silhouette": float(silhouette_score(features[rows], clusters[rows])) if possible else None,
    }


def _entropy(distribution: np.ndarray) -> float:
    """Entropy in nats, clamped at 1e-8 as the official loss does."""
    clamped = np.maximum(distribution, 1e-8)
    return float(-(clamped * np.log(clamped)).sum())


def ids(values: np.ndarray, count: int | None, name: str) -> np.ndarray:
    """The values as int64 [N] after checking that they lie in 0..count-1; None: from 0 on."""
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        raise DataError(f"{name}: expected integers [N], got {values.dtype} {list(values.shape)}.")
    low, high = values.min(), values.max()
    if low < 0 or (count is not None and high >= count):
        most = "" if count is None else count - 1
        raise DataError(f"{name}: expected values in 0..{most}, got {low}..{high}.")
    return values.astype(np.int64)


def same_length(**arrays: np.ndarray) -> None:
    """Raise DataError unless all arrays have as many rows."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"expected as many rows in each of these, got {lengths}.")
