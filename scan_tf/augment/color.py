"""Colour jitter and greyscale of whole batches, f32 `[B,H,W,3]` in 0..1."""

from __future__ import annotations

import tensorflow as tf

# Rec. 601 luma, as PIL's and torchvision's conversion to grey.
LUMA = (0.299, 0.587, 0.114)


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
    same for all images. Hue, which costs the most, is computed once: the slots that come before it
    run first (as identity where they come after it), then hue, then the others.

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


def solarize(images: tf.Tensor) -> tf.Tensor:
    """Invert the levels from 128 of 255 on (PIL's threshold) of images f32 [B,H,W,3] in 0..1."""
    return tf.where(images * 255.0 >= 128.0, 1.0 - images, images)
