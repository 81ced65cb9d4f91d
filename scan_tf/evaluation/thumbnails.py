"""Small copies of images as WebP in base64: one by one, or many in a sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

# Thumbnails in a row of a sheet, and rows of a full one.
COLUMNS = 32
PER_SHEET = COLUMNS * COLUMNS
# Up to this side pixels are kept exactly: lossy WebP blurs 8x8 digits, and saves nothing there.
_EXACT_UP_TO = 16
# 32x32 photos of CIFAR-10 take 350 bytes each, in base64.
_QUALITY = 70


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Images uint8 [n,S,S,3] as [n,s,s,3] with s = min(S, side), by the mean over pixels."""
    if images.shape[1] <= side:
        return np.asarray(images)
    box = Image.Resampling.BOX
    small = [np.asarray(Image.fromarray(image).resize((side, side), box)) for image in images]
    return np.stack(small) if small else np.empty((0, side, side, 3), np.uint8)


def webp(image: np.ndarray, *, exact: bool = False) -> str:
    """An image uint8 [H,W,3] as WebP in base64, with or without its exact pixels."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "WEBP", quality=_QUALITY, lossless=exact, method=2)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def is_exact(side: int) -> bool:
    """Whether thumbnails of this side keep their exact pixels."""
    return side <= _EXACT_UP_TO


def sheets(images: Any, rows: np.ndarray, side: int) -> Iterator[str]:
    """Thumbnails of `images[rows]` in sheets of at most PER_SHEET, each WebP in base64.

    A sheet has COLUMNS thumbnails a row, from left to right and from the top down, without gaps;
    what is left of its last row is black. One sheet at a time is in memory.

    Args:
        images: uint8 [N,S,S,3] by `[rows]`.
        rows: int [n].
        side: of a thumbnail, at most S.
    """
    for low in range(0, len(rows), PER_SHEET):
        small = shrink(np.asarray(images[rows[low : low + PER_SHEET]]), side)
        lines = -(-len(small) // COLUMNS)
        full = np.zeros((lines * COLUMNS, side, side, 3), np.uint8)
        full[: len(small)] = small
        sheet = full.reshape(lines, COLUMNS, side, side, 3).swapaxes(1, 2)
        pixels = np.ascontiguousarray(sheet.reshape(lines * side, COLUMNS * side, 3))
        yield webp(pixels, exact=is_exact(side))
