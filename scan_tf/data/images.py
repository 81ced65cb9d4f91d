"""Files of images to arrays, and the one resize that everything shares."""

from __future__ import annotations

import collections
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import machine
from scan_tf.data.decoding import Budget, Limits, decode
from scan_tf.errors import DataError

# Arrays above this size in bytes go to a file that the system pages in and out.
MEMORY_LIMIT = 2 * 2**30
# Files that a message names.
SHOWN = 10
# Files that a thread reads at a time, at most.
_SHARE = 16
_log = logging.getLogger(__name__)


def fits_in_memory(count: int, size: int) -> bool:
    """Whether so many images of a side are held in memory."""
    return count * size * size * 3 <= MEMORY_LIMIT


def allocate(count: int, size: int) -> np.ndarray:
    """An uninitialised uint8 [count, size, size, 3], in memory or, above 2 GiB, memory-mapped.

    The file is a temporary one without a name (TMPDIR says where); it goes away with the array.

    Raises:
        DataError: there is no room for the file.
    """
    shape = (count, size, size, 3)
    if fits_in_memory(count, size):
        return np.empty(shape, np.uint8)
    needed = math.prod(shape)
    with tempfile.TemporaryFile() as file:
        try:
            # Of a file with holes the system would kill the program at the first full page.
            os.posix_fallocate(file.fileno(), 0, needed)
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: {count:,} images of {size} pixels take "
                f"{needed / 2**20:,.0f} MiB there ({error.strerror}). Make room, let TMPDIR name "
                "another folder, or lower data.image_size."
            ) from error
        return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image of one of SUFFIXES (of several frames the first) as uint8 [H, W, 3], upright.

    The EXIF orientation is honoured (and an unreadable EXIF block ignored), what is transparent
    becomes white, CMYK and gray become RGB, and 16 bits are scaled to 8: from 0..4095 where no
    value is above that, as in radiographs, else from 0..65535.

    Raises:
        DataError: the file cannot be read or decoded; the message names it and says why.
    """
    return decode(path, budget=Budget(0))


def read_fitted(
    files: Sequence[Path], size: int, *, ahead: int = 256, limits: Limits | None = None
) -> Iterator[np.ndarray | DataError]:
    """Each file as uint8 [size, size, 3], or what is wrong with it, in order.

    Threads decode up to `ahead` files before they are asked for, as many at a time as fit into
    `limits`. Of many files a thread takes several at a time: to hand one over costs as much as to
    decode an image of 32 pixels.
    """
    fit, limits = fitter(size), limits or Limits()
    budget = Budget(limits.bytes)
    share = min(_SHARE, ahead, len(files) // (8 * machine.num_cpus())) or 1

    def read(file: Path) -> np.ndarray | DataError:
        try:
            return fit(decode(file, size, limits=limits, budget=budget))
        except DataError as error:
            return error

    def read_all(some: Sequence[Path]) -> list[np.ndarray | DataError]:
        return [read(file) for file in some]

    waiting: collections.deque[Future[list[np.ndarray | DataError]]] = collections.deque()
    with machine.threads() as pool:
        for start in range(0, len(files), share):
            waiting.append(pool.submit(read_all, files[start : start + share]))
            if share * len(waiting) > ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def report_unreadable(
    errors: Sequence[DataError], total: int, *, where: str = "", allowed: bool = True
) -> None:
    """Warn of files that cannot be read.

    Args:
        errors: what is wrong with them.
        total: how many files there are.
        where: what to begin the message with.
        allowed: False: raise instead.

    Raises:
        DataError: it is not allowed, or there is no other file.
    """
    if not errors:
        return
    lines = [f"{where}{len(errors)} of {total} images cannot be read:", *map(str, errors[:SHOWN])]
    text = "\n  ".join(lines + [f"and {len(errors) - SHOWN} more"] * (len(errors) > SHOWN))
    if len(errors) == total:
        raise DataError(f"{text}\nThere is no image left.")
    if not allowed:
        raise DataError(f"{text}\nRemove them, or set data.strict: false to skip them.")
    _log.warning("%s\nThey are skipped.", text)


def fitter(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """`resize_and_crop` of single images uint8 [H,W,3] to `size`, for many threads.

    Traced once, here: threads would each trace a tf.function of their own.
    """
    import tensorflow as tf

    pixels = tf.TensorSpec((None, None, 3), tf.uint8)
    fitted = tf.function(lambda image: resize_and_crop(image, size), autograph=False)
    graph = fitted.get_concrete_function(pixels)

    def fit(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (size, size):
            return image
        # On the host: a GPU would spend its time on copying single images.
        with tf.device("CPU:0"):
            return np.asarray(graph(tf.convert_to_tensor(image)))

    return fit


def resize_and_crop(images: Any, size: int) -> Any:
    """The centre square of the images, resized (bilinear, antialiased) to `size`.

    The same picture as "resize the short side to `size`, then crop the centre", but the crop comes
    first: the aspect ratio stays exact, and a 1x100000 image costs nothing. Works inside a
    tf.function with unknown H and W (but not under XLA, which has no antialiased resize), and is
    the identity for H = W = size.

    Args:
        images: uint8 or float tensor [H, W, 3] or [B, H, W, 3].
        size: side of the result.

    Returns:
        A tensor [size, size, 3] or [B, size, size, 3] of the dtype of `images`; uint8 is rounded.
    """
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    if images.shape[-3:-1].as_list() == [size, size]:
        return images
    height, width = tf.unstack(tf.shape(images)[-3:-1])
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side, :]
    resized = tf.image.resize(square, (size, size), method="bilinear", antialias=True)
    if images.dtype.is_integer:
        resized = tf.round(resized)
    return tf.cast(resized, images.dtype)
