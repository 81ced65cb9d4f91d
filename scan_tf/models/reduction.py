"""Frozen features made comparable: centred, on their first principal axes, of unit length.

Features of networks with ReLUs point into one corner of the space, so that all cosines are large;
centring undoes that, and the axes of small variance hold more noise than content. Both are fitted
once, without labels, on the images to cluster, and are constants from then on.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from scan_tf.errors import DataError

# Rows at a time, where features are paged in from a file.
_BLOCK = 4096
# Axes whose variance is a smaller share of the largest are rounding.
_NOISE = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Reduction:
    """(features - mean) @ axes, scaled to unit length.

    Attributes:
        mean: f32 [D].
        axes: f32 [D,P], orthonormal columns in the order of falling variance.
        explained: share of the variance that the axes keep, 0..1.
    """

    mean: np.ndarray
    axes: np.ndarray
    explained: float

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """Features f32 [B,D] to rows f32 [B,P] of unit length; a row at the mean stays 0."""
        return tf.math.l2_normalize((features - self.mean) @ self.axes, axis=1, epsilon=1e-24)

    def rows(self, features: np.ndarray) -> np.ndarray:
        """The same for all of a set: [N,D], in memory or paged in, to f32 [N,P]."""
        reduced = np.empty((len(features), self.axes.shape[1]), np.float32)
        for start in range(0, len(features), _BLOCK):
            block = np.asarray(features[start : start + _BLOCK], np.float32)
            reduced[start : start + _BLOCK] = self(tf.constant(block)).numpy()
        return reduced


def fit(features: np.ndarray, dim: int) -> Reduction:
    """The mean and the principal axes of features, by their covariance in float64.

    Args:
        features: float [N,D], in memory or paged in; N at least 2.
        dim: P wanted; fewer where the features vary in fewer directions.

    Raises:
        DataError: all features are the same, or there is one row.
    """
    count, size = features.shape
    blocks = range(0, count, _BLOCK)
    mean = sum(np.sum(features[i : i + _BLOCK], axis=0, dtype=np.float64) for i in blocks) / count
    covariance = np.zeros((size, size))
    for start in blocks:
        block = features[start : start + _BLOCK] - mean
        covariance += block.T @ block
    variances, axes = np.linalg.eigh(covariance / count)
    variances, axes = variances[::-1], axes[:, ::-1]
    kept = min(dim, int((variances > _NOISE * max(variances[0], 0)).sum()), count - 1)
    if kept < 1:
        raise DataError(f"features: all {count} rows are the same; there is nothing to cluster.")
    axes = axes[:, :kept]
    # The sign of an axis is free: its largest entry is positive, so that it is always the same.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(kept)])
    explained = float(variances[:kept].sum() / variances[variances > 0].sum())
    return Reduction(mean.astype(np.float32), axes.astype(np.float32), explained)
