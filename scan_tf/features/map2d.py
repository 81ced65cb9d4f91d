"""Features laid out in the plane."""

from __future__ import annotations

import numpy as np

from scan_tf.errors import DataError


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
