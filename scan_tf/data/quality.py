"""Images that somebody may not want to learn from: twins, dark, bright, flat and blurred ones."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# Images that are looked at together.
_BLOCK = 512
# Mean luminance, 0..255, below which an image is dark and above which it is bright.
_DARK, _BRIGHT = 20, 235
# Standard deviation of the luminance below which there is nothing to see.
_FLAT = 4
# Share of the variance that is left in the Laplacian: below it no edge is sharp.
_BLURRED = 0.004
# Of smaller images sharpness and likeness say nothing.
_JUDGED = 32
# Difference of the luminance of neighbouring cells, 0..255, that a hash tells of; where it told of
# the least one, noise would change it.
_RISE = 4
# Mean difference of the luminance, 0..255, of images that are almost the same.
_NEAR = 6
# Verbs of what one image does.
_OF_ONE = {"have": "has", "are": "is", "show": "shows"}
# Images of one hash that others are compared with.
_KEPT = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Quality:
    """Rows int64 of the images that stand out.

    Attributes:
        same: those with the pixels of one before them.
        near: those that are almost the same as one before them, by an equal difference hash and
            nearly equal pixels.
        dark: mean luminance below 20 of 255.
        bright: above 235.
        flat: hardly any contrast.
        blurred: no sharp edge.
    """

    same: np.ndarray
    near: np.ndarray
    dark: np.ndarray
    bright: np.ndarray
    flat: np.ndarray
    blurred: np.ndarray

    def lines(self, paths: Sequence[str]) -> Iterator[str]:
        """What is there, in words, with the path of one; nothing where nothing stands out."""
        said = {
            "same": "have the same pixels as one before them",
            "near": "are almost the same as one before them",
            "dark": "are very dark",
            "bright": "are very bright",
            "flat": "show hardly anything",
            "blurred": "are blurred",
        }
        for name, text in said.items():
            rows = getattr(self, name)
            if len(rows) == 1:
                verb, _, rest = text.partition(" ")
                yield f"1 {_OF_ONE[verb]} {rest.replace('them', 'it')}: {paths[rows[0]]}"
            elif len(rows):
                yield f"{len(rows):,} {text}, such as {paths[rows[0]]}"


def look(images: Any, *, side: int | None = None) -> Quality:
    """Look at uint8 [N,S,S,3] by `[rows]`, a block at a time.

    Args:
        images: the images, as they were resized.
        side: in pixels, of most of them before that; None: S. What was enlarged is not sharp.
    """
    enlarged = 1 if side is None else -(-images.shape[1] // max(1, min(side, images.shape[1])))
    found: dict[str, list[int]] = {f.name: [] for f in dataclasses.fields(Quality)}
    exact, alike = set[bytes](), dict[bytes, list[np.ndarray]]()
    for low in range(0, len(images), _BLOCK):
        block = np.ascontiguousarray(images[low : low + _BLOCK])
        grey = block.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        mean, deviation = grey.mean(axis=(1, 2)), grey.std(axis=(1, 2))
        flat = deviation < _FLAT
        found["dark"] += _rows(low, mean < _DARK)
        found["bright"] += _rows(low, mean > _BRIGHT)
        found["flat"] += _rows(low, flat & (mean >= _DARK) & (mean <= _BRIGHT))
        judged = grey.shape[1] >= _JUDGED * enlarged
        if judged:
            sharp = _sharpness(_reduced(grey, enlarged))
            found["blurred"] += _rows(low, ~flat & (sharp < _BLURRED))
        small = _shrunk(grey)
        rises = small[:, :, 1:] - small[:, :, :-1] > _RISE
        hashes = np.packbits(rises.reshape(len(block), -1), axis=1)
        for row, image in enumerate(block):
            digest = hashlib.blake2b(image.data, digest_size=16).digest()
            if digest in exact:
                found["same"].append(low + row)
                continue
            exact.add(digest)
            if not judged or flat[row]:
                continue
            earlier = alike.setdefault(hashes[row].tobytes(), [])
            if any(np.abs(small[row] - other).mean() < _NEAR for other in earlier[:_KEPT]):
                found["near"].append(low + row)
            else:
                earlier.append(small[row])
    return Quality(**{name: np.array(rows, np.int64) for name, rows in found.items()})


def _rows(low: int, chosen: np.ndarray) -> list[int]:
    return (low + np.flatnonzero(chosen)).tolist()


def _reduced(grey: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of so many pixels, float32 [B,S // factor,S // factor]."""
    if factor == 1:
        return grey
    cells = grey.shape[1] // factor
    whole = grey[:, : cells * factor, : cells * factor]
    return whole.reshape(len(grey), cells, factor, cells, factor).mean(axis=(2, 4))


def _sharpness(grey: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian over that of the luminance, [B] (Pech-Pacheco et al., 2000)."""
    middle = grey[:, 1:-1, 1:-1]
    laplacian = (
        grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * middle
    )
    return laplacian.var(axis=(1, 2)) / np.maximum(middle.var(axis=(1, 2)), 1e-6)


def _shrunk(grey: np.ndarray) -> np.ndarray:
    """Means of 8 x 9 cells, float32 [B,8,9]."""
    rows = np.linspace(0, grey.shape[1], 9).astype(int)[:-1]
    columns = np.linspace(0, grey.shape[2], 10).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=1), columns, axis=2)
    heights = np.diff(np.append(rows, grey.shape[1]))
    widths = np.diff(np.append(columns, grey.shape[2]))
    return sums / (np.maximum(heights, 1)[:, None] * np.maximum(widths, 1)[None])
