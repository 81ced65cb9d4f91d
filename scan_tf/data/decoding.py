"""Decoding of image files from anywhere: regular files, known formats, bounded memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import DataError
from scan_tf.storage.files import open_regular

# Formats whose decoders run in this process alone; Pillow would start Ghostscript for EPS.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000")
# Above so many pixels the centre square is cut out and averaged down before it is converted.
_LARGE = 16_000_000
# The greatest value of 16-bit grey images that have only 12 bits, as those of scanners.
TWELVE_BITS = 4095
# Bytes a pixel: of Pillow's own copies; and of all that is made of a pixel that stays.
_DECODED, _CONVERTED = 8, 24


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much decoding may take.

    Attributes:
        megapixels: of one file; what has more is refused.
        mib: of all files that are decoded at a time; one that needs more is decoded alone. None: a
            quarter of the machine's memory.
    """

    megapixels: float = 89.0
    mib: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all files that are decoded at a time."""
        if self.mib is not None:
            return self.mib * 2**20
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


class Budget:
    """Bytes that threads share; who needs more than there are waits for all others to end."""

    def __init__(self, total: int):
        self.total, self._used = total, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Wait for so many bytes, and give them back."""
        count = min(count, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._used + count <= self.total)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


def decode(
    path: str | Path,
    size: int | None = None,
    *,
    limits: Limits | None = None,
    budget: Budget,
    coarse: bool = False,
) -> np.ndarray:
    """A file as uint8 [H, W, 3], upright, on white.

    Args:
        path: the file.
        size: the side that it will be resized to. Of an image of more than 16 million pixels then
            only the centre square is returned, averaged down by a whole factor, to no less than
            this side; a JPEG is decoded at a fraction of its size.
        limits: how many pixels there may be.
        budget: the memory that all threads share.
        coarse: for looking at alone: a JPEG of any number of pixels is decoded at a fraction of its
            size, to no less than `size`.

    Raises:
        DataError: it is no regular file, of no format that is read, too large, or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    limits = limits or Limits()
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            pixels = math.prod(image.size)
            if pixels > limits.megapixels * 1e6:
                raise ValueError(
                    f"{image.width} x {image.height} are {pixels / 1e6:.0f} megapixels, more than "
                    f"data.max_megapixels = {limits.megapixels:g}"
                )
            with budget.taking(_DECODED * pixels + _CONVERTED * min(pixels, _LARGE)):
                return _decoded(image, size, coarse)
    # Pillow reports broken files by many kinds of exceptions; all mean the same to a user.
    except Exception as error:
        why = "of no format that is known" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path}: cannot be read as an image ({why}).") from error


def size_of(path: str | Path) -> tuple[int, int]:
    """Width and height as the head of a file says. Raises OSError where it is no image."""
    return head_of(path)[2]


def head_of(path: str | Path) -> tuple[str, str, tuple[int, int]]:
    """Kind, mode, and width and height of a file, such as JPEG and RGB; raises as `size_of`."""
    from PIL import Image

    with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
        return image.format or "unknown", image.mode, image.size


def is_twelve_bits(path: str | Path) -> bool | None:
    """Whether a grey file of 16 bits has no value above 4095; None of other files."""
    from PIL import Image

    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            if not image.mode.startswith("I") or math.prod(image.size) > _LARGE:
                return None
            return bool(np.asarray(image).max() <= TWELVE_BITS)
    except Exception:  # reported when it is read
        return None


def _decoded(image: Any, size: int | None, coarse: bool) -> np.ndarray:
    from PIL import ImageOps

    is_large = size is not None and math.prod(image.size) > _LARGE
    if size is not None and (is_large or coarse) and image.format in ("JPEG", "MPO"):
        image.draft(None, (size, size))
    image.load()
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return np.array(_to_rgb(_small(image, size) if is_large and size is not None else image))


def _small(image: Any, size: int) -> Any:
    """The centre square of a large image, averaged down."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if square.mode.startswith("I"):
        square = _grey(square)
    elif square.mode in ("1", "P", "PA") or "transparency" in square.info:
        square = square.convert("RGBA")  # what cannot be averaged as it is
    factor = min(side // size, math.ceil(side / math.isqrt(_LARGE)))
    return square.reduce(factor) if factor > 1 else square


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of the formats that Pillow can open here."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _grey(image: Any) -> Any:
    """16-bit grey as 8 bits, which Pillow would clip to 255; integers all the way."""
    from PIL import Image

    values = np.asarray(image)
    if values.dtype != np.uint16:
        values = values.clip(0, 65535).astype(np.uint16)
    white = TWELVE_BITS if values.max() <= TWELVE_BITS else 65535
    # (255 v + white / 2) // white, as one look at a table for each pixel.
    table = ((np.arange(65536) * 510 + white) // (2 * white)).clip(0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        table[transparent] = 255
    return Image.fromarray(table[values])


def _to_rgb(image: Any) -> Any:
    """A Pillow image of any mode as RGB on white."""
    from PIL import Image

    if image.mode.startswith("I"):
        return _grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
