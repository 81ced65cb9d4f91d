"""Batched image primitives; all compile under XLA with static shapes.

Images are float32 `[B,H,W,3]`. Every geometric change on a grid of rows and columns (crop, flip,
resize, padding) is a pair of matrices: one mixes rows, one mixes columns. Two batched matrix
products then do the work of all of them at once, which is several times faster than gathers and,
unlike TensorFlow's own resize operations, compiles everywhere.
"""

from __future__ import annotations

import tensorflow as tf

# Rec. 601 luma, as PIL's and torchvision's conversion to grey.
LUMA = (0.299, 0.587, 0.114)


def resize_matrix(offset: tf.Tensor, length: tf.Tensor, side: int, full: int) -> tf.Tensor:
    """Weights that resize the span [offset, offset + length) of an axis to `side` pixels.

    The triangle filter of PIL (and of torchvision with antialias): plain bilinear when the span
    is enlarged, widened by the scale when it is shrunk, truncated at the span's ends.

    Args:
        offset: f32 [B] or [1], first pixel of the span.
        length: f32 [B] or [1], pixels in the span.
        side: pixels after the resize.
        full: pixels of the whole axis.

    Returns:
        f32 [B,side,full]; every row sums to 1.
    """
    offset, length = offset[:, None, None], length[:, None, None]
    scale = length / side
    centre = (tf.range(side, dtype=tf.float32)[None, :, None] + 0.5) * scale
    pixel = tf.range(full, dtype=tf.float32)[None, None, :] - offset
    weight = tf.maximum(0.0, 1.0 - tf.abs(pixel + 0.5 - centre) / tf.maximum(1.0, scale))
    weight = tf.where((pixel >= 0) & (pixel < length), weight, 0.0)
    return weight / tf.reduce_sum(weight, -1, keepdims=True)


def mix(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Apply a matrix to the rows and one to the columns of each image.

    The products run on levels 0..255: integers of 8 bits pass unchanged through the reduced
    precision (TF32) with which accelerators multiply matrices.

    Args:
        images: f32 [B,H,W,3] in 0..1.
        rows: f32 [B,S,H], or [1,S,H] for all images.
        columns: f32 [B,T,W] or [1,T,W].

    Returns:
        f32 [B,S,T,3] in 0..1.
    """
    _, height, width, channels = images.shape
    side, breadth = rows.shape[1], columns.shape[1]
    # Channels between rows and columns: both products then need no further transpose.
    planes = tf.reshape(tf.transpose(images * 255.0, [0, 1, 3, 2]), [-1, height, channels * width])
    planes = tf.reshape(tf.matmul(rows, planes), [-1, side * channels, width])
    planes = tf.matmul(planes, columns, transpose_b=True)
    mixed = tf.transpose(tf.reshape(planes, [-1, side, channels, breadth]), [0, 1, 3, 2])
    return tf.clip_by_value(mixed / 255.0, 0.0, 1.0)


def grayscale(images: tf.Tensor) -> tf.Tensor:
    """Luma f32 [B,H,W,1] of images f32 [B,H,W,3]."""
    red, green, blue = tf.split(images, 3, axis=-1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def shift_hue(images: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Turn the hue by `shift` [B] (1 is a full turn), keeping HSV value and saturation.

    The closed form of RGB -> HSV -> RGB: with h in sixths of a turn, V the largest and C the
    largest less the smallest channel, channel n in (5, 3, 1) is V - C * clip(min(k, 4-k), 0, 1),
    k = (n + h) mod 6.

    Args:
        images: f32 [B,H,W,3] in 0..1.
        shift: f32 [B].

    Returns:
        f32 [B,H,W,3] in 0..1.
    """
    red, green, blue = tf.unstack(images, axis=-1)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    safe = tf.where(chroma > 0, chroma, 1.0)
    hue = tf.where(
        value == red,
        (green - blue) / safe,
        tf.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    hue += 6.0 * shift[:, None, None]
    turned = []
    for n in (5.0, 3.0, 1.0):
        k = n + hue
        k -= 6.0 * tf.floor(k / 6.0)
        turned.append(value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0))
    return tf.stack(turned, axis=-1)


def color_jitter(images: tf.Tensor, factors: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Brightness, contrast, saturation and hue, in an order of each image's own.

    The first three have one form, clip(a*x + b*grey(x) + c*mean(grey(x))), so each slot costs the
    same for all images. Hue, the dear one, is computed once: the slots that come before it run
    first (as identity where they come after it), then hue, then the others.

    Args:
        images: f32 [B,H,W,3] in 0..1.
        factors: f32 [B,4], brightness, contrast, saturation (1: unchanged), hue (0: unchanged).
        order: int32 [B,4], a permutation of 0..3 per image; order[:, 0] is applied first.

    Returns:
        f32 [B,H,W,3] in 0..1.
    """
    hue_slot = tf.argmax(tf.cast(order == 3, tf.int32), axis=1, output_type=tf.int32)
    for slot in range(3):
        images = _blend_slot(images, factors, order[:, slot], slot < hue_slot)
    images = shift_hue(images, factors[:, 3])
    for slot in range(1, 4):
        images = _blend_slot(images, factors, order[:, slot], slot > hue_slot)
    return images


def _blend_slot(
    images: tf.Tensor, factors: tf.Tensor, op: tf.Tensor, active: tf.Tensor
) -> tf.Tensor:
    """Brightness (op 0), contrast (1) or saturation (2) where `active`, else the image itself."""
    own = tf.gather(factors, op, batch_dims=1)
    own = tf.where(active & (op < 3), own, 1.0)[:, None, None, None]
    op = op[:, None, None, None]
    grey = grayscale(images)
    mean = tf.reduce_mean(grey, axis=[1, 2], keepdims=True)
    # Brightness blends with black, contrast with the mean grey, saturation with the grey image.
    other = tf.where(op == 2, grey, tf.where(op == 1, mean, 0.0))
    return tf.clip_by_value(own * images + (1.0 - own) * other, 0.0, 1.0)


def rotate_bilinear(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turn each image about its centre, bilinear, the border repeated outwards.

    Args:
        images: f32 [B,H,W,3] in 0..1.
        degrees: f32 [B], counter-clockwise.

    Returns:
        f32 [B,H,W,3] in 0..1.
    """
    _, height, width, channels = images.shape
    angle = (degrees * (3.141592653589793 / 180.0))[:, None, None]
    y = tf.range(height, dtype=tf.float32)[None, :, None] - (height - 1) / 2
    x = tf.range(width, dtype=tf.float32)[None, None, :] - (width - 1) / 2
    source_x = tf.cos(angle) * x - tf.sin(angle) * y + (width - 1) / 2
    source_y = tf.sin(angle) * x + tf.cos(angle) * y + (height - 1) / 2
    source_x = tf.clip_by_value(source_x, 0.0, width - 1.0)
    source_y = tf.clip_by_value(source_y, 0.0, height - 1.0)
    left, top = tf.floor(source_x), tf.floor(source_y)
    flat = tf.reshape(images, [-1, height * width, channels])
    turned = tf.zeros_like(images)
    for dy in (0, 1):
        for dx in (0, 1):
            column = tf.minimum(tf.cast(left, tf.int32) + dx, width - 1)
            row = tf.minimum(tf.cast(top, tf.int32) + dy, height - 1)
            weight = tf.abs(1 - dx - (source_x - left)) * tf.abs(1 - dy - (source_y - top))
            index = tf.reshape(row * width + column, [-1, height * width])
            pixels = tf.reshape(tf.gather(flat, index, batch_dims=1), tf.shape(images))
            turned += weight[..., None] * pixels
    return turned
