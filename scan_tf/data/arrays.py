"""Images that are an array already: checks, grey to RGB, the centre square."""

from __future__ import annotations

from typing import Any

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.data.images import allocate, resize_and_crop
from scan_tf.errors import DataError

_BATCH = 500
# Of statistics: so many images tell them.
_SAMPLE = 10_000


def from_array(
    images: Any,
    labels: Any = None,
    *,
    name: str = "array",
    image_size: int | None = None,
) -> ImageSet:
    """An array as an `ImageSet`.

    Args:
        images: uint8 [N,H,W,3], or [N,H,W] or [N,H,W,1], which are grey. Those that are not square
            are cropped to their centre.
        labels: [N], whole numbers or names; for the scores alone. None: there are none.
        name: what the set is called.
        image_size: side S of the result, resized (bilinear, antialiased); None: as they are.

    Returns:
        The images uint8 [N,S,S,3] as the split "train", with their own mean and deviation.

    Raises:
        DataError: another dtype or shape, no image, or labels of another length.
    """
    pixels = checked(images, name)
    size = image_size or min(pixels.shape[1:3])
    found = square(pixels, size)
    names: tuple[str, ...] = ()
    ids = None
    if labels is not None:
        values = np.asarray(labels)
        if values.ndim != 1 or len(values) != len(found):
            raise DataError(
                f"{name}: labels must be [{len(found)}], one for each image, "
                f"got {list(values.shape)}."
            )
        known, ids = np.unique(values, return_inverse=True)
        names, ids = tuple(map(str, known)), ids.astype(np.int64)
    mean, std = statistics(found)
    return ImageSet(
        name=name, split="train", images=found, labels=ids, class_names=names, mean=mean, std=std
    )


def checked(images: Any, name: str = "images") -> np.ndarray:
    """Images of any accepted shape as uint8 [N,H,W,3]; what is grey is repeated, not copied."""
    array = np.asarray(images)
    shape, dtype = list(array.shape), array.dtype
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or not all(array.shape):
        raise DataError(f"{name}: images must be [N,H,W,3], [N,H,W,1] or [N,H,W], got {shape}.")
    if dtype != np.uint8:
        reach = f" in {np.min(array):.4g}..{np.max(array):.4g}" if dtype.kind in "iufb" else ""
        raise DataError(
            f"{name}: images must be uint8 in 0..255, got {dtype}{reach}. Scale and convert them, "
            "such as (images * 255).astype(np.uint8) for 0..1."
        )
    return np.broadcast_to(array, (*array.shape[:3], 3))


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The centre squares of uint8 [N,H,W,3], resized to [N,size,size,3]; no copy where it fits."""
    if pixels.shape[1:3] == (size, size):
        return pixels
    result = allocate(len(pixels), size)
    for start in range(0, len(pixels), _BATCH):
        batch = np.ascontiguousarray(pixels[start : start + _BATCH])
        result[start : start + _BATCH] = np.asarray(resize_and_crop(batch, size))
    return result


def statistics(
    images: np.ndarray,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of each channel, of images scaled to 0..1, from at most 10,000 of them."""
    sample = images[:: -(-len(images) // _SAMPLE)].astype(np.float32) / 255
    mean = sample.mean(axis=(0, 1, 2), dtype=np.float64)
    # Images of a single colour: nothing to divide by.
    std = np.maximum(sample.std(axis=(0, 1, 2), dtype=np.float64), 1 / 255)
    return (
        (float(mean[0]), float(mean[1]), float(mean[2])),
        (float(std[0]), float(std[1]), float(std[2])),
    )
