"""How far the confidence of a clustering can be trusted, and what unsure images cost.

Confidence is the probability of the chosen cluster, float [N] in 0..1. An image is right, bool [N],
where the class of its cluster (see `metrics.match`) is its own. Without labels `correct` is None:
then everything that needs it is None, and what can be known without is given all the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from scan_tf.errors import DataError

BINS = 15
_LEAST_TEMPERATURE = 0.05
COVERAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
# What `selflabel.threshold` may be set to, up to the official 0.99.
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


def calibration(
    confidence: np.ndarray, correct: np.ndarray | None, *, bins: int = BINS
) -> dict[str, Any]:
    """Expected calibration error and its bins (Guo et al., 2017, equations 2 to 5).

    Bin m of M = `bins` holds confidences in ((m-1)/M, m/M], the first one 0 as well. ECE is the
    mean over the images of |accuracy - confidence| of their bin, 0..1.

    Returns:
        ece; bins: for each its bounds low and high, count, mean confidence and accuracy (both
        None for an empty bin). ece and accuracy are None without labels.

    Raises:
        DataError: confidences out of range, none at all, or not as many as `correct`.
    """
    confidence, correct = _checked(confidence, correct)
    edges = np.linspace(0, 1, bins + 1)
    numbers = np.searchsorted(edges, confidence, side="left").clip(min=1) - 1
    table: list[dict[str, Any]] = []
    for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        members = numbers == number
        table.append(
            {
                "low": float(low),
                "high": float(high),
                "count": int(members.sum()),
                "confidence": _mean(confidence, members),
                "accuracy": _mean(correct, members),
            }
        )
    ece = None
    if correct is not None:
        filled = [row for row in table if row["count"]]
        gaps = [row["count"] * abs(row["accuracy"] - row["confidence"]) for row in filled]
        ece = float(sum(gaps) / len(confidence))
    return {"ece": ece, "bins": table}


def coverage(confidence: np.ndarray, correct: np.ndarray | None) -> dict[str, Any]:
    """Accuracy of the most confident images alone (Geifman and El-Yaniv, 2017).

    Images of equal confidence count with their mean accuracy, so that their order is immaterial.

    Returns:
        coverage: for a tenth of the images (rounded up), two tenths, ... and all of them:
        coverage 0..1, threshold (the lowest confidence among them), accuracy. aurc: the area under
        the risk-coverage curve, the mean over n = 1..N of the error of the n most confident
        images, 0..1; the lower, the better. accuracy and aurc are None without labels.

    Raises:
        DataError: as `calibration`.
    """
    confidence, correct = _checked(confidence, correct)
    count = len(confidence)
    falling = np.sort(confidence)[::-1]
    accuracy = None
    if correct is not None:
        # np.unique sorts upwards, and ties get the mean of their group.
        _, group, sizes = np.unique(confidence, return_inverse=True, return_counts=True)
        rates = np.bincount(group, weights=correct) / sizes
        accuracy = np.cumsum(np.repeat(rates, sizes)[::-1]) / np.arange(1, count + 1)
    rows = []
    for percent in COVERAGES:
        kept = -(-count * percent // 100)
        known = None if accuracy is None else float(accuracy[kept - 1])
        threshold = float(falling[kept - 1])
        rows.append({"coverage": percent / 100, "accuracy": known, "threshold": threshold})
    aurc = None if accuracy is None else float((1 - accuracy).mean())
    return {"coverage": rows, "aurc": aurc}


def pseudo_labels(
    confidence: np.ndarray,
    clusters: np.ndarray,
    correct: np.ndarray | None,
    *,
    num_clusters: int,
) -> list[dict[str, Any]]:
    """What self-labelling would learn from at each threshold (SCAN, section 2.3).

    Args:
        confidence: float [N] in 0..1.
        clusters: int [N] in 0..num_clusters-1, the pseudo-labels.
        correct: bool [N] or None.
        num_clusters: how many clusters there are, empty ones included.

    Returns:
        A row for each of THRESHOLDS: threshold; count and share of the images whose confidence
        exceeds it; accuracy of their pseudo-labels; smallest_cluster_share and
        largest_cluster_share of the clusters among them: 0 where self-labelling would not see a
        cluster. Shares of clusters and accuracy are None without confident images, accuracy also
        without labels.

    Raises:
        DataError: as `calibration`.
    """
    confidence, correct = _checked(confidence, correct)
    if len(clusters) != len(confidence):
        raise DataError(f"clusters: {len(clusters)} for {len(confidence)} confidences.")
    rows = []
    for threshold in THRESHOLDS:
        # In float32, as the comparison of the training is.
        sure = confidence.astype(np.float32) > np.float32(threshold)
        count = int(sure.sum())
        sizes = np.bincount(clusters[sure], minlength=num_clusters)
        rows.append(
            {
                "threshold": threshold,
                "count": count,
                "share": count / len(confidence),
                "accuracy": _mean(correct, sure),
                "smallest_cluster_share": float(sizes.min() / count) if count else None,
                "largest_cluster_share": float(sizes.max() / count) if count else None,
            }
        )
    return rows


def temperature(probs: np.ndarray, near: np.ndarray) -> float:
    """The temperature that makes probabilities say how often neighbours agree (Guo et al., 2017).

    It has the least cross-entropy of the neighbours' clusters under softmax(ln p / T). Where the
    neighbours are of the image's own class, that is the confidence that is deserved.

    Args:
        probs: float [N,C] of the images; best of images that nothing was trained on.
        near: int [N,K], the clusters that neighbours of each image were given.

    Returns:
        T within 0.05..20.

    Raises:
        DataError: lengths differ, or there is no image or no neighbour.
    """
    if len(probs) != len(near) or not near.size:
        raise DataError(f"near: expected clusters [{len(probs)},K], got {list(near.shape)}.")
    logits = _log(probs)
    votes = np.zeros(probs.shape)
    np.add.at(votes, (np.arange(len(near))[:, None], near), 1 / near.shape[1])

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        norm = np.logaddexp.reduce(scaled, axis=1)
        return float((norm - (votes * scaled).sum(axis=1)).mean())

    bounds = np.log([_LEAST_TEMPERATURE, 1 / _LEAST_TEMPERATURE])
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def tempered(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities float32 [N,C] at a temperature, softmax(ln p / T); at 1 as they are."""
    if temperature == 1:
        return probs
    logits = _log(probs) / temperature
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None]).astype(np.float32)


def _log(probs: np.ndarray) -> np.ndarray:
    """Logarithms as float64, of 0 that of the least float32."""
    return np.log(np.maximum(np.asarray(probs, np.float64), np.finfo(np.float32).tiny))


def _mean(values: np.ndarray | None, members: np.ndarray) -> float | None:
    return None if values is None or not members.any() else float(values[members].mean())


def _checked(
    confidence: np.ndarray, correct: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Confidence as float64 [N] in 0..1, correct as bool [N] or None."""
    confidence = np.asarray(confidence, np.float64)
    # The rows of a softmax in float32 may exceed 1 by rounding.
    if confidence.ndim != 1 or not ((confidence >= 0) & (confidence <= 1 + 1e-5)).all():
        raise DataError("confidence: expected numbers [N] in 0..1.")
    if not len(confidence):
        raise DataError("confidence: expected that of at least one image, got none.")
    if correct is not None and len(correct) != len(confidence):
        raise DataError(f"correct: {len(correct)} values for {len(confidence)} confidences.")
    return confidence.clip(max=1), None if correct is None else np.asarray(correct, bool)
