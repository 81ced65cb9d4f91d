"""Images that are in a set more than once: the same pixels, or almost the same features."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from scan_tf.errors import DataError

# Pairs of nearest neighbours whose features are at least as similar count as near duplicates.
THRESHOLD = 0.99
# Images that are read at a time.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Duplicates:
    """What `find` finds.

    Attributes:
        groups: rows int64 [n >= 2] of images with equal pixels, rising; the groups do not overlap
            and are sorted by their first rows.
        pairs: int64 [M,2], rows of near duplicates, the lower first; equal pixels are left out. The
            most similar pair comes first.
        similarity: float32 [M] in threshold..1, falling.
        threshold: the cosine that makes two images near duplicates.
    """

    groups: tuple[np.ndarray, ...]
    pairs: np.ndarray
    similarity: np.ndarray
    threshold: float

    @property
    def surplus(self) -> int:
        """How many images have the pixels of one before them."""
        return sum(len(group) - 1 for group in self.groups)


def find(
    images: Any, indices: np.ndarray, similarity: np.ndarray, *, threshold: float = THRESHOLD
) -> Duplicates:
    """Find equal images by their pixels, and near ones among the nearest neighbours.

    One block of images is in memory at a time, and a digest of 16 bytes for each.

    Args:
        images: uint8 [N,S,S,3] by `[rows]`.
        indices: int [N,K+1], neighbours of every image, itself in column 0; see `neighbors.mine`.
        similarity: float [N,K+1] in -1..1, the cosine of their features.
        threshold: how similar near duplicates are at least, above 0 and at most 1.

    Raises:
        DataError: shapes that do not fit, or a threshold out of range.
    """
    count = len(images)
    if indices.ndim != 2 or len(indices) != count or similarity.shape != indices.shape:
        raise DataError(
            f"indices, similarity: expected both as [{count}, K+1], got {list(indices.shape)} and "
            f"{list(similarity.shape)}."
        )
    if not 0 < threshold <= 1:
        raise DataError(f"threshold: expected above 0 and at most 1, got {threshold}.")
    content = _first_of_its_kind(images)
    pairs, cosine = _near(indices, similarity, threshold)
    differ = content[pairs[:, 0]] != content[pairs[:, 1]]
    return Duplicates(_groups(content), pairs[differ], cosine[differ], threshold)


def _first_of_its_kind(images: Any) -> np.ndarray:
    """For each image the first row that has its pixels, int64 [N]."""
    first: dict[bytes, int] = {}
    content = np.empty(len(images), np.int64)
    for low in range(0, len(images), _BLOCK):
        block = np.ascontiguousarray(images[low : low + _BLOCK])
        for row, image in enumerate(block, low):
            digest = hashlib.blake2b(image.data, digest_size=16).digest()
            content[row] = first.setdefault(digest, row)
    return content


def _groups(content: np.ndarray) -> tuple[np.ndarray, ...]:
    order = np.argsort(content, kind="stable")
    starts = np.flatnonzero(np.diff(content[order])) + 1
    return tuple(group for group in np.split(order, starts) if len(group) > 1)


def _near(
    indices: np.ndarray, similarity: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs int64 [M,2], each once, and their similarity float32 [M], the most similar first."""
    rows, columns = np.nonzero(similarity[:, 1:] >= np.float32(threshold))
    pairs = np.sort(np.stack([rows, indices[rows, columns + 1]], axis=1).astype(np.int64), axis=1)
    cosine = similarity[rows, columns + 1].astype(np.float32)
    pairs, position = np.unique(pairs, axis=0, return_index=True)
    order = np.argsort(-cosine[position], kind="stable")
    return pairs[order].reshape(-1, 2), cosine[position][order]
