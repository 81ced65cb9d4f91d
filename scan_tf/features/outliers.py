"""How far an image lies from those that were learned from, in the space of the features.

The distance is one minus the mean cosine to the 5 nearest images of a bank, 0..2 (Sun et al., 2022,
"Out-of-Distribution Detection with Deep Nearest Neighbors", which takes the distance to the k-th).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scan_tf.errors import DataError
from scan_tf.features.rows import unit

# Images of the bank at most, and neighbours that are asked.
BANK, NEIGHBORS = 2048, 5
# Rows that are compared at a time.
_BLOCK = 4096
# An outer fence: so many interquartile ranges above the third quartile.
_FENCE = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What new images are compared with.

    Attributes:
        bank: float32 [M,D], features of images that were learned from, rows of length 1.
        far: the distance above which an image is unlike all of them.
    """

    bank: np.ndarray
    far: float


def sample(count: int, seed: int) -> np.ndarray:
    """Rows int64 [M] of the images that make the bank, rising."""
    chosen = np.random.default_rng(seed).choice(count, min(count, BANK), replace=False)
    return np.sort(chosen)


def reference(features: np.ndarray) -> Reference:
    """The bank of float [M,D], and the fence by the distances of its rows from the others.

    The fence is Tukey's outer one (1977) for distributions that are not symmetric, Q3 + 3 exp(3 MC)
    (Q3 - Q1) with the medcouple MC (exp(4 MC) where it is negative; Hubert and Vandervieren, 2008,
    "An adjusted boxplot for skewed distributions"). Distances of features that form tight groups
    have a long tail, most of which the plain fence would call outliers.

    Raises:
        DataError: fewer than 3 rows, or some that are not finite.
    """
    bank = _unit(features)
    if len(bank) < 3:
        raise DataError(f"features: expected at least 3 rows to compare with, got {len(bank)}.")
    return Reference(bank, fence(distances(bank, bank, own=np.arange(len(bank)))))


def fence(values: np.ndarray) -> float:
    """The adjusted outer fence of float [M]; see `reference`."""
    low, high = np.percentile(values, (25, 75))
    skew = medcouple(values)
    return float(high + _FENCE * np.exp((3 if skew >= 0 else 4) * skew) * (high - low))


def medcouple(values: np.ndarray) -> float:
    """How far a distribution leans to the left, -1..1; 0 where it is symmetric.

    The median of ((b - m) - (m - a)) / (b - a) over all a <= m <= b, a < b, of float [M] with the
    median m (Brys, Hubert and Struyf, 2004, "A robust measure of skewness"); pairs of equal values
    count as 0.
    """
    centred = np.sort(np.asarray(values, np.float64)) - np.median(values)
    above, below = centred[centred >= 0][:, np.newaxis], -centred[centred <= 0]
    width = above + below
    return float(np.median((above - below) / np.where(width > 0, width, 1)))


def distances(
    bank: np.ndarray, features: np.ndarray, *, own: np.ndarray | None = None
) -> np.ndarray:
    """The distance of each of the features from the bank, float32 [N].

    Args:
        bank: float32 [M,D], rows of length 1.
        features: float [N,D].
        own: int [N], the row of the bank that is the image itself and does not count; -1: none is.
    """
    rows = _unit(features)
    found = np.empty(len(rows), np.float32)
    for low in range(0, len(rows), _BLOCK):
        block = rows[low : low + _BLOCK]
        cosine = block @ bank.T
        others = len(bank)
        if own is not None:
            itself = own[low : low + _BLOCK]
            inside = np.flatnonzero(itself >= 0)
            cosine[inside, itself[inside]] = -np.inf
            others -= 1
        k = min(NEIGHBORS, others)
        found[low : low + _BLOCK] = 1 - np.partition(cosine, -k, axis=1)[:, -k:].mean(axis=1)
    return found


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; one without a direction stays 0, as far from everything."""
    rows = np.asarray(features, np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise DataError(f"features: expected a finite [N,D] array, got {list(rows.shape)}.")
    return unit(rows)
