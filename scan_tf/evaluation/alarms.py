"""What is known of a clustering without labels, and whether it may be built on.

Confidence and silhouette rise while clusters die: what tells of that is how even the clusters are,
how many of them have images to learn from, and whether neighbours agree as often as the confidence
says. Neighbours are found by the pretext, so that they know nothing of the clustering.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from scan_tf.evaluation import calibration

Alarms = Mapping[str, float]

# Mean distance between confidence and agreement that makes a clustering unsure, 0..1.
_UNSURE = 0.1
# What neighbours may agree less than at the start, 0..1.
_LESS_AGREEMENT = 0.02


def look(
    probs: np.ndarray, near: np.ndarray | None = None, *, threshold: float = 0.99
) -> dict[str, float]:
    """The alarms of a clustering.

    Args:
        probs: float32 [N,C].
        near: int [N,K], neighbours of each image among these, without itself; None: unknown.
        threshold: confidence that makes an image a confident one.

    Returns:
        size_entropy: of the sizes of the clusters in nats, ln C where all are equal.
        confident_clusters: how many clusters have a confident image.
        agreement: share of the pairs of image and neighbour that are in one cluster; with `near`.
        agreement_ece: expected calibration error of the confidence as the probability of that, 0..1
            (15 bins); with `near`.
    """
    clusters, confidence = probs.argmax(axis=1), probs.max(axis=1)
    sizes = np.bincount(clusters, minlength=probs.shape[1])
    found = {
        "size_entropy": entropy(sizes),
        "confident_clusters": float(len(np.unique(clusters[confidence > threshold]))),
    }
    if near is not None:
        same = clusters[near] == clusters[:, None]
        found["agreement"] = float(same.mean())
        pairs = np.repeat(confidence, near.shape[1])
        found["agreement_ece"] = calibration.calibration(pairs, same.ravel())["ece"]
    return found


def entropy(sizes: np.ndarray | Sequence[int]) -> float:
    """Entropy in nats of the shares of clusters with these sizes [C]; an empty one adds nothing."""
    shares = np.asarray(sizes, np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum())


def one_cluster(num_clusters: int) -> float:
    """What the entropy of equal sizes loses with one of C clusters: ln C - ln (C - 1), in nats."""
    return math.log(num_clusters / (num_clusters - 1))


def unsure(found: Alarms, num_clusters: int, *, threshold: float = 0.99) -> list[str]:
    """Why a clustering should not teach anything yet, in words; none: it may."""
    reasons = []
    silent = num_clusters - round(found["confident_clusters"])
    if silent:
        reasons.append(
            f"{silent} of {num_clusters} clusters have no image that is more confident than "
            f"{threshold:g}, and would not be learnt from"
        )
    fullest = math.log(num_clusters)
    if found["size_entropy"] < fullest - one_cluster(num_clusters):
        reasons.append(
            f"the sizes of the clusters are as uneven as with one of them empty (entropy "
            f"{found['size_entropy']:.2f} of {fullest:.2f})"
        )
    error = found.get("agreement_ece", 0.0)
    if error > _UNSURE:
        reasons.append(
            f"the confidence is off by {100 * error:.0f} percentage points from how often "
            "neighbours agree"
        )
    return reasons


def worse(history: Sequence[Alarms], num_clusters: int) -> str | None:
    """Why the last of these epochs is not to be kept, in words; None: it is.

    It is worse than the best before it where the entropy of its sizes is lower by more than half
    of what an empty cluster costs; and worse than the first, which is what the stage began with,
    where neighbours agree less by more than 0.02.
    """
    *before, last = history
    if not before:
        return None
    best = max(before, key=lambda found: found["size_entropy"])
    if last["size_entropy"] < best["size_entropy"] - one_cluster(num_clusters) / 2:
        return (
            f"its clusters are less even (entropy of the sizes {last['size_entropy']:.2f}, before "
            f"{best['size_entropy']:.2f} of {math.log(num_clusters):.2f})"
        )
    first = before[0]
    if last.get("agreement", 1.0) < first.get("agreement", 0.0) - _LESS_AGREEMENT:
        return f"neighbours agree less ({last['agreement']:.1%}, before {first['agreement']:.1%})"
    return None


def kept(history: Sequence[Alarms], num_clusters: int) -> int:
    """The last epoch that is not worse; 0, the beginning, where all are."""
    fit = [e for e in range(len(history)) if worse(history[: e + 1], num_clusters) is None]
    return fit[-1]


def sentence(found: Alarms, num_clusters: int, *, threshold: float = 0.99) -> str:
    """The alarms in words."""
    text = f"size entropy {found['size_entropy']:.2f} of {math.log(num_clusters):.2f}; "
    text += f"{found['confident_clusters']:.0f} of {num_clusters} clusters have images more "
    text += f"confident than {threshold:g}"
    if "agreement" in found:
        text += f"; neighbours agree in {found['agreement']:.1%}"
        text += f", where the confidence is off by {found['agreement_ece']:.3f}"
    return text
