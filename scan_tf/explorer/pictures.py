"""The images of a run as small pictures, made when they are asked for, the last ones kept."""

from __future__ import annotations

import collections
import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from scan_tf.data.decoding import Budget, Limits, decode
from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation.thumbnails import is_exact

# Side of a thumbnail and the longest side of an enlarged image, in pixels.
SIDE, LARGE = 128, 1600
# Thumbnails that are kept: some 20,000 of photos.
_KEPT_BYTES = 96 * 2**20
_QUALITY = {"thumbnail": 78, "large": 90}


class Pictures:
    """Pictures by the numbers of the images.

    Args:
        paths: a file for each image; None: they come from no files.
        images: gives the image set, where they come from no files.
        limits: of decoding.

    Attributes:
        made: how many thumbnails were made, for tests.
    """

    def __init__(
        self,
        paths: list[Path] | None,
        images: Callable[[], ImageSet],
        limits: Limits,
    ):
        self._paths, self._images, self._limits = paths, images, limits
        self._budget = Budget(limits.bytes)
        self._kept: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._size = 0
        self._set: ImageSet | None = None
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self.made = 0

    def thumbnail(self, row: int) -> bytes:
        """The centre square of an image, which is what the network saw, as WebP.

        Raises:
            DataError: the file is gone or damaged.
        """
        with self._lock:
            if row in self._kept:
                self._kept.move_to_end(row)
                return self._kept[row]
        pixels = self._pixels(row, SIDE)
        side = min(pixels.shape[:2])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        square = Image.fromarray(pixels[top : top + side, left : left + side])
        if side > SIDE:
            square = square.resize((SIDE, SIDE), Image.Resampling.BOX)
        content = _webp(square, "thumbnail")
        with self._lock:
            self.made += 1
            self._size += len(content) - len(self._kept.pop(row, b""))
            self._kept[row] = content
            while self._size > _KEPT_BYTES and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])
        return content

    def large(self, row: int) -> bytes:
        """The whole image, as WebP; raises as `thumbnail`."""
        image = Image.fromarray(self._pixels(row, LARGE))
        image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
        return _webp(image, "large")

    def _pixels(self, row: int, size: int) -> np.ndarray:
        if self._paths is not None:
            path = self._paths[row]
            return decode(path, size, limits=self._limits, budget=self._budget, coarse=True)
        with self._loading:  # once, whoever asks first
            self._set = self._set or self._images()
        return np.ascontiguousarray(self._set.images[row])


def _webp(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    exact = is_exact(max(image.size))
    image.save(stream, "WEBP", quality=_QUALITY[kind], lossless=exact, method=0)
    return stream.getvalue()
