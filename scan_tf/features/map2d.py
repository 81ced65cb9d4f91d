"""Features laid out in the plane."""

from __future__ import annotations

import numpy as np

from scan_tf.errors import DataError

# Rows that are placed at a time, and nearest rows of the sample that place one.
_BLOCK, _NEAREST = 1024, 3


def layout(features: np.ndarray, seed: int, sample: int) -> np.ndarray:
    """Lay features float [N,D] out in the plane, f32 [N,2], in a time that grows only with N.

    At most `sample` random rows are laid out by `embed_2d`. Every other one goes to the mean of its
    3 nearest among them, weighted by one over the squared distance.

    Raises:
        DataError: as `embed_2d`.
    """
    features = np.asarray(features, np.float32)
    count = len(features)
    rows = np.random.default_rng(seed).choice(count, min(sample, count), replace=False)
    placed = embed_2d(features[rows], seed)
    points = np.empty((count, 2), np.float32)
    points[rows] = placed
    others = np.setdiff1d(np.arange(count), rows)
    bank, lengths = features[rows], (features[rows] ** 2).sum(axis=1)
    for low in range(0, len(others), _BLOCK):
        block = others[low : low + _BLOCK]
        queries = features[block]
        if not np.isfinite(queries).all():
            raise DataError("features: expected a finite [N,D] array.")
        distance = lengths - 2 * queries @ bank.T + (queries**2).sum(axis=1, keepdims=True)
        place, total = np.zeros((len(block), 2), np.float32), np.zeros((len(block), 1), np.float32)
        # For three of them, three searches for the least are faster than one that sorts.
        for _ in range(min(_NEAREST, len(rows))):
            near = distance.argmin(axis=1)[:, None]
            weight = 1 / np.maximum(np.take_along_axis(distance, near, axis=1), 1e-6)
            place, total = place + weight * placed[near[:, 0]], total + weight
            np.put_along_axis(distance, near, np.inf, axis=1)
        points[block] = place / total
    return points


def embed_2d(features: np.ndarray, seed: int) -> np.ndarray:
    """Lay features float [n,D] out in the plane, f32 [n,2]; the same seed, the same layout.

    PCA to 50 dimensions, then t-SNE; PCA alone below 10 rows; zeros where no feature differs.

    Raises:
        DataError: the features are not a finite [n,D] array.
    """
    # Takes a second to import, and nothing else here needs it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise DataError(f"features: expected a finite [n,D] array, got {list(features.shape)}.")
    count, dimensions = features.shape
    if count < 2 or np.ptp(features, axis=0).max(initial=0) == 0:
        return np.zeros((count, 2), np.float32)
    reduced = PCA(min(50, count, dimensions), svd_solver="full").fit_transform(features)
    if count < 10:
        return np.pad(reduced[:, :2], ((0, 0), (0, max(0, 2 - reduced.shape[1]))))
    # The perplexity must stay below the number of points; 500 iterations look like 1000 here.
    start = "pca" if dimensions > 1 else "random"
    tsne = TSNE(perplexity=min(30, count / 4), init=start, max_iter=500, random_state=seed)
    # One thread: on a busy machine t-SNE's threads spend most of their time waiting.
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(reduced), np.float32)
