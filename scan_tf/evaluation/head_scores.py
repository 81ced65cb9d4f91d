"""What can be known of cluster heads without labels: scores by which one of many may be chosen.

Every score is higher for a better head, and is computed for all heads by a few products, so that
scores of heads of one run compare; nothing here sees a label.
"""

from __future__ import annotations

import numpy as np

from scan_tf.errors import DataError

_FOLDS = 3
# Penalty of the ridge regression, as a share of the mean squared length of a row per dimension.
_RIDGE = 1e-2
_SAMPLE = 1500
_TINY = 1e-12


def head_scores(
    clusters: np.ndarray,
    rows: np.ndarray,
    neighbor_indices: np.ndarray,
    *,
    num_clusters: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Scores of H clusterings of the same N images.

    Args:
        clusters: int [H,N] in 0..C-1.
        rows: float32 [N,P], features of unit length; the same for all heads, without which
            silhouettes do not compare (arXiv 2403.14830).
        neighbor_indices: int [N,K+1], column 0 the image itself.
        num_clusters: C.
        seed: of the folds and of the sample.

    Returns:
        Each float64 [H]:
        neighbors: share of the neighbours in the cluster of their image, 0..1;
        linear: share of the images whose cluster a linear classifier finds that was fitted by
            ridge regression on the other two of three folds, 0..1 (TURTLE's generalisation score,
            ICML 2024, there with logistic regression and ten folds);
        silhouette: -1..1, Euclidean, mean over 1,500 random images (Rousseeuw, 1987);
        stability: mean NMI with the other heads, 0..1; 1 for a single head.

    Raises:
        DataError: lengths differ, or a cluster is out of range.
    """
    clusters = np.asarray(clusters)
    counts = {"clusters": clusters.shape[-1], "rows": len(rows), "neighbors": len(neighbor_indices)}
    if clusters.ndim != 2 or len(set(counts.values())) != 1:
        raise DataError(f"head scores: expected [H,N] clusters, as many N in each, got {counts}.")
    if clusters.min() < 0 or clusters.max() >= num_clusters:
        raise DataError(
            f"clusters: expected values in 0..{num_clusters - 1}, "
            f"got {clusters.min()}..{clusters.max()}."
        )
    random = np.random.default_rng(seed)
    near = [(c[neighbor_indices[:, 1:]] == c[:, None]).mean() for c in clusters]
    onehot = np.eye(num_clusters, dtype=np.float32)[clusters]
    return {
        "neighbors": np.array(near),
        "linear": _linear(clusters, onehot, rows, random),
        "silhouette": silhouettes(clusters, onehot, rows, random),
        "stability": _stability(onehot),
    }


def pairwise_nmi(onehot: np.ndarray) -> np.ndarray:
    """NMI (arithmetic mean) of every two of H clusterings, float64 [H,H], of onehot f32 [H,N,C]."""
    heads, count, num_clusters = onehot.shape
    flat = onehot.transpose(1, 0, 2).reshape(count, -1)
    joint = (flat.T @ flat / count).astype(np.float64)
    joint = joint.reshape(heads, num_clusters, heads, num_clusters)
    shares = onehot.mean(axis=1, dtype=np.float64)
    logs = np.log(shares + _TINY)
    entropies = -(shares * logs).sum(axis=1)
    information = np.log(joint + _TINY) - logs[:, :, None, None] - logs[None, None]
    mutual = (joint * information).sum(axis=(1, 3)).clip(min=0)
    mean = (entropies[:, None] + entropies) / 2
    # Two clusterings of one cluster each are the same one.
    return np.where(mean > 1e-9, mutual / np.maximum(mean, _TINY), 1.0).clip(max=1)


def _stability(onehot: np.ndarray) -> np.ndarray:
    heads = len(onehot)
    if heads == 1:
        return np.ones(1)
    return (pairwise_nmi(onehot).sum(axis=1) - 1) / (heads - 1)


def _linear(
    clusters: np.ndarray, onehot: np.ndarray, rows: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    heads, count, num_clusters = onehot.shape
    inputs = np.concatenate([rows, np.ones((count, 1), np.float32)], axis=1).astype(np.float64)
    targets = onehot.transpose(1, 0, 2).reshape(count, -1)
    folds = random.permutation(count) % _FOLDS
    hits = np.zeros(heads)
    for fold in range(_FOLDS):
        fit, rest = folds != fold, folds == fold
        gram = inputs[fit].T @ inputs[fit]
        penalty = _RIDGE * np.trace(gram[:-1, :-1]) / rows.shape[1] + _TINY
        gram[np.arange(len(gram) - 1), np.arange(len(gram) - 1)] += penalty
        weights = np.linalg.lstsq(gram, inputs[fit].T @ targets[fit], rcond=None)[0]
        found = (inputs[rest] @ weights).reshape(-1, heads, num_clusters).argmax(axis=2)
        hits += (found == clusters[:, rest].T).sum(axis=0)
    return hits / count


def silhouettes(
    clusters: np.ndarray, onehot: np.ndarray, rows: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Mean silhouette of H clusterings over random images, float64 [H]; see `head_scores`.

    Takes clusters int [H,N], the same as onehot float32 [H,N,C], and rows float32 [N,P].
    """
    sample = random.permutation(len(rows))[:_SAMPLE]
    z = rows[sample].astype(np.float64)
    squares = (z * z).sum(axis=1)
    distances = np.sqrt((squares[:, None] + squares - 2 * z @ z.T).clip(min=0))
    np.fill_diagonal(distances, 0)
    each = np.arange(len(sample))
    scores = []
    for own, members in zip(clusters[:, sample], onehot[:, sample], strict=True):
        sizes = members.sum(axis=0, dtype=np.float64)
        sums = distances @ members
        within = sums[each, own] / (sizes[own] - 1).clip(min=1)
        means = np.where(sizes > 0, sums / sizes.clip(min=1), np.inf)
        means[each, own] = np.inf
        other = means.min(axis=1)
        # An image alone in its cluster, or in the only one there is, scores 0.
        counted = (sizes[own] > 1) & np.isfinite(other)
        larger = np.maximum(within, other)[counted].clip(min=_TINY)
        scores.append(((other - within)[counted] / larger).sum() / len(sample))
    return np.array(scores)
