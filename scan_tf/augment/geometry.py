"""Crop, flip, resize and padding as matrices: the same code for all, and all of it at once.

Every geometric change on a grid of rows and columns is a pair of matrices: one mixes rows, one
mixes columns. Two batched matrix products then do the work, which is several times faster than
gathers and, unlike TensorFlow's own resize operations, compiles under XLA.
"""

from __future__ import annotations

import math

import tensorflow as tf


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


def rotate_bilinear(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turn each image about its centre, bilinear, the border repeated outwards.

    Args:
        images: f32 [B,H,W,3] in 0..1.
        degrees: f32 [B], counter-clockwise.

    Returns:
        f32 [B,H,W,3] in 0..1.
    """
    _, height, width, channels = images.shape
    angle = (degrees * (math.pi / 180.0))[:, None, None]
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


def blur_matrix(sigma: tf.Tensor, side: int, radius: int) -> tf.Tensor:
    """Weights that blur an axis by a Gaussian, the image mirrored at its borders.

    Args:
        sigma: f32 [B], standard deviations in pixels, above 0.
        side: pixels of the axis.
        radius: pixels on each side of the centre that have a weight; below `side`.

    Returns:
        f32 [B,side,side]; every row sums to 1.
    """
    offsets = tf.range(-radius, radius + 1)
    index = tf.abs(tf.range(side)[None, :] + offsets[:, None])
    mirrored = tf.minimum(index, 2 * (side - 1) - index)
    places = tf.one_hot(mirrored, side)
    weight = tf.exp(-0.5 * (tf.cast(offsets, tf.float32) / sigma[:, None]) ** 2)
    weight /= tf.reduce_sum(weight, -1, keepdims=True)
    return tf.einsum("bo,oij->bij", weight, places)
