"""The fourteen operations of strong augmentation, batched, with PIL's integer arithmetic.

Images are *levels*: f32 `[B,H,W,3]` holding whole numbers 0..255. Each image has its own
operation; everything compiles under XLA with static shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

# Strong operations: name -> range of the magnitude (SCAN, supplement; official configuration).
# All work as PIL does on whole levels 0..255. The enhance operations only degrade.
STRONG_OPS = {
    "Identity": (0.0, 1.0),
    "AutoContrast": (0.0, 1.0),
    "Equalize": (0.0, 1.0),
    "Rotate": (-30.0, 30.0),
    "Solarize": (0.0, 256.0),
    "Color": (0.05, 0.95),
    "Contrast": (0.05, 0.95),
    "Brightness": (0.05, 0.95),
    "Sharpness": (0.05, 0.95),
    "ShearX": (-0.1, 0.1),
    "TranslateX": (-0.1, 0.1),
    "TranslateY": (-0.1, 0.1),
    "Posterize": (4.0, 8.0),
    "ShearY": (-0.1, 0.1),
}
# Images that a subset loop takes at a time.
_CHUNK = 32


def apply_op(name: str, levels: tf.Tensor, magnitude: float) -> tf.Tensor:
    """One operation at one magnitude for all images; otherwise as `apply_ops`."""
    batch = tf.shape(levels)[:1]
    op = tf.fill(batch, list(STRONG_OPS).index(name))
    return apply_ops(levels, op, tf.fill(batch, tf.constant(magnitude, tf.float64)))


def apply_ops(levels: tf.Tensor, op: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """An operation of each image's own, with PIL's arithmetic.

    Most operations are one formula with a neutral value, evaluated for the whole batch at once;
    Sharpness, AutoContrast and Equalize cost more and run only for their own images.

    Args:
        levels: f32 [B,H,W,3], whole numbers 0..255.
        op: int32 [B], position in STRONG_OPS.
        magnitude: f32 or f64 [B].

    Returns:
        f32 [B,H,W,3], whole numbers 0..255.
    """
    factor = tf.cast(magnitude, tf.float32)
    levels = _blend_colors(levels, op, factor)
    levels = _solarize_posterize(levels, op, factor)
    # float64: PIL computes coordinates in double precision.
    matrix = _affine_matrix(op, tf.cast(magnitude, tf.float64), *levels.shape[1:3])
    levels = _affine_nearest(levels, matrix)
    levels = _for_subset(levels, _is(op, "Sharpness"), factor, _sharpness)
    levels = _for_subset(levels, _is(op, "AutoContrast"), factor, _autocontrast)
    return _for_subset(levels, _is(op, "Equalize"), factor, _equalize)


def _is(op: tf.Tensor, *names: str) -> tf.Tensor:
    known = list(STRONG_OPS)
    return tf.reduce_any([op == known.index(name) for name in names], axis=0)


def _blend_colors(levels: tf.Tensor, op: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """PIL's ImageEnhance: Color, Contrast and Brightness blend with grey, its mean, or black."""
    kinds = ("Color", "Contrast", "Brightness")
    color, contrast, brightness = (_is(op, kind)[:, None, None, None] for kind in kinds)
    red, green, blue = tf.split(levels, 3, axis=-1)
    # PIL's fixed-point luma; the sums stay below 2**24 and are exact in float32.
    grey = tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)
    pixels = levels.shape[1] * levels.shape[2]
    total = tf.reduce_sum(tf.cast(grey, tf.int32), [1, 2, 3], keepdims=True)
    mean = tf.cast((2 * total + pixels) // (2 * pixels), tf.float32)
    other = tf.where(color, grey, tf.where(contrast, mean, 0.0))
    return tf.where(color | contrast | brightness, _blend(other, levels, factor), levels)


def _blend(other: tf.Tensor, levels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.floor(other + factor[:, None, None, None] * (levels - other))


def _sharpness(levels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blend with PIL's SMOOTH: 3x3 ones with a 5 in the middle, over 13; the border stays."""
    _, height, width, _ = levels.shape
    if min(height, width) < 3:
        return levels
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels[:, 1:-1, 1:-1]
    smooth = tf.pad(tf.floor(total / 13 + 0.5), [[0, 0], [1, 1], [1, 1], [0, 0]])
    row, column = tf.range(height)[:, None], tf.range(width)[None, :]
    border = (row == 0) | (row == height - 1) | (column == 0) | (column == width - 1)
    return tf.where(border[None, :, :, None], levels, _blend(smooth, levels, factor))


def _solarize_posterize(levels: tf.Tensor, op: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    threshold = tf.where(_is(op, "Solarize"), magnitude, 256.0)[:, None, None, None]
    step = tf.where(_is(op, "Posterize"), 2.0 ** (8.0 - tf.floor(magnitude)), 1.0)
    step = step[:, None, None, None]
    levels = tf.where(levels < threshold, levels, 255.0 - levels)
    return tf.floor(levels / step) * step


def _affine_matrix(op: tf.Tensor, magnitude: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """int32 [B,6] in 1/65536 pixel: source x = a*x + b*y + c, source y = d*x + e*y + f."""

    def only(name: str, value: tf.Tensor) -> tf.Tensor:
        return tf.where(_is(op, name), value, tf.zeros_like(value))

    radians = only("Rotate", -magnitude * (math.pi / 180.0))
    cos, sin = tf.cos(radians), tf.sin(radians)
    b, d = sin + only("ShearX", magnitude), -sin + only("ShearY", magnitude)
    c = width / 2 - (cos * (width / 2) + sin * (height / 2)) + 0.5 * (cos + b)
    f = height / 2 - (cos * (height / 2) - sin * (width / 2)) + 0.5 * (cos + d)
    fixed = tf.floor(tf.stack([cos, b, c, d, cos, f], axis=1) * 65536.0 + 0.5)
    # PIL moves by whole pixels when there is no rotation or shear.
    x = tf.floor(only("TranslateX", magnitude * width) + 0.5) * 65536.0
    y = tf.floor(only("TranslateY", magnitude * height) + 0.5) * 65536.0
    none = tf.zeros_like(x)
    return tf.cast(fixed + tf.stack([none, none, x, none, none, y], axis=1), tf.int32)


def _affine_nearest(levels: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """PIL's affine transform, nearest neighbour, black outside; `matrix` int32 [B,6]."""
    _, height, width, channels = levels.shape
    a, b, c, d, e, f = (value[:, None, None] for value in tf.unstack(matrix, axis=1))
    y, x = tf.range(height)[None, :, None], tf.range(width)[None, None, :]
    column = tf.bitwise.right_shift(a * x + b * y + c, 16)
    row = tf.bitwise.right_shift(d * x + e * y + f, 16)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = tf.reshape(tf.where(inside, row * width + column, 0), [-1, height * width])
    flat = tf.reshape(levels, [-1, height * width, channels])
    moved = tf.reshape(tf.gather(flat, index, batch_dims=1), tf.shape(levels))
    return tf.where(inside[..., None], moved, 0.0)


def _autocontrast(levels: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    """Stretch the levels of each channel to 0..255."""
    low = tf.reduce_min(levels, [1, 2], keepdims=True)
    high = tf.reduce_max(levels, [1, 2], keepdims=True)
    wide = tf.cast(levels, tf.float64)
    scale = 255.0 / tf.cast(tf.maximum(high - low, 1.0), tf.float64)
    # PIL rounds both products in double precision before it adds them; min and max keep
    # compilers from fusing a product with the sum, which would turn some 255s into 254s.
    product = tf.maximum(wide * scale, 0.0)
    offset = tf.minimum(-tf.cast(low, tf.float64) * scale, 0.0)
    stretched = tf.floor(tf.clip_by_value(product + offset, 0.0, 255.0))
    return tf.where(high > low, tf.cast(stretched, tf.float32), levels)


def _equalize(levels: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    """Flatten the histogram of each channel, by a table per image and channel."""
    _, height, width, channels = levels.shape
    pixels = height * width
    planes = tf.transpose(tf.reshape(levels, [-1, pixels, channels]), [0, 2, 1])
    planes = tf.cast(tf.reshape(planes, [-1, pixels]), tf.int32)
    count = tf.shape(planes)[0]
    slot = tf.reshape(planes + 256 * tf.range(count)[:, None], [-1])
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(slot), slot, count * 256)
    histogram = tf.reshape(histogram, [-1, 256])
    below = tf.cumsum(histogram, axis=1, exclusive=True)
    # All pixels but those of the highest level present, shared among 255 steps.
    step = tf.reduce_max(tf.where(histogram > 0, below, 0), axis=1, keepdims=True) // 255
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, table, tf.range(256)[None, :])
    mapped = tf.reshape(tf.gather(table, planes, batch_dims=1), [-1, channels, pixels])
    mapped = tf.reshape(tf.transpose(mapped, [0, 2, 1]), tf.shape(levels))
    return tf.cast(mapped, tf.float32)


def _for_subset(
    images: tf.Tensor,
    chosen: tf.Tensor,
    parameter: tf.Tensor,
    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """`function(images, parameter)` where `chosen` [B], computed a chunk at a time.

    The number of rounds follows the number of chosen images; every shape is static, as XLA needs.
    """
    batch = tf.shape(images)[0]
    chunk = tf.minimum(_CHUNK, batch)
    order = tf.argsort(tf.cast(chosen, tf.int32), direction="DESCENDING", stable=True)
    count = tf.reduce_sum(tf.cast(chosen, tf.int32))

    def body(done: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The last chunk may reach back over images that were done.
        position = tf.minimum(done, batch - chunk) + tf.range(chunk)
        index = tf.gather(order, position)
        active = ((position >= done) & (position < count))[:, None, None, None]
        part = tf.gather(images, index)
        part = tf.where(active, function(part, tf.gather(parameter, index)), part)
        return done + chunk, tf.tensor_scatter_nd_update(images, index[:, None], part)

    shapes = [tf.TensorShape([]), images.shape]
    loop = tf.while_loop(lambda done, _: done < count, body, [0, images], shape_invariants=shapes)
    return loop[1]
