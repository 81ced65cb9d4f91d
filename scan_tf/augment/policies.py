"""The augmentation policies on the device: whole batches, inside the compiled step.

A policy maps images f32 `[B,H,W,3]` in 0..1 and a seed int32 `[2]` to f32 `[B,size,size,3]` in
0..1. Every random number is drawn per image and follows from the seed alone. To add a policy,
write a function `name(config, size, mean)` that returns one and list it in `make`, or give its
dotted name.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from scan_tf import replicas
from scan_tf.augment import color, geometry, ops
from scan_tf.config import AugmentConfig
from scan_tf.errors import ConfigError
from scan_tf.settings.schema import did_you_mean

Policy = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Mean = tuple[float, float, float]
# Standard deviations of the Gaussian blur in pixels (SimCLR, appendix A).
BLUR_SIGMA = (0.1, 2.0)


def make(name: str, config: AugmentConfig, *, size: int, mean: Mean, **options: Any) -> Policy:
    """The policy called `name`.

    Args:
        name: `none`, `weak`, `simclr` or `strong`; or the dotted name of somebody else's function
            with the arguments that theirs have, such as `my_package.views.gentle`.
        config: the parameters of all policies.
        size: side of the square images it returns.
        mean: mean colour of the data set, 0..1; the fill of cutout.
        options: of this policy alone; `simclr` has `blur`, `solarize` and `area`.

    Raises:
        ConfigError: there is no such policy, or a range of `config` is empty.
    """
    policies: dict[str, Callable[..., Policy]]
    policies = {"none": none, "weak": weak, "simclr": simclr, "strong": strong}
    check(config)
    if name in policies:
        return policies[name](config, size, mean, **options)
    module, _, function = name.rpartition(".")
    if not module:
        raise ConfigError(f"augmentation '{name}' is unknown. {did_you_mean(name, policies)}")
    try:
        maker: Callable[..., Policy] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"augmentation '{name}' cannot be imported ({error}).") from error
    return maker(config, size, mean, **options)


def check(config: AugmentConfig) -> None:
    """Raise ConfigError where two values of a field do not go together."""
    for field in ("crop_scale", "crop_ratio"):
        low, high = getattr(config, field)
        if not 0 < low <= high:
            raise ConfigError(f"augment.{field}: expected 0 < low <= high, got [{low}, {high}].")
    if min(config.jitter) < 0 or config.jitter[3] > 0.5:
        raise ConfigError(
            "augment.jitter: expected brightness, contrast, saturation >= 0 and hue in 0..0.5, "
            f"got {list(config.jitter)}."
        )


def none(config: AugmentConfig, size: int, mean: Mean) -> Policy:
    """Resize so that the shorter side is `size`, then the centre crop; no randomness."""

    def policy(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        _, height, width, _ = images.shape
        if height == width == size:
            return images
        rows, columns = _fit(height, width, size)
        return geometry.mix(images, _centre(rows, size), _centre(columns, size))

    return policy


def weak(config: AugmentConfig, size: int, mean: Mean) -> Policy:
    """Rotation (off by default), random crop after reflect padding, horizontal flip."""

    def policy(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        crop_seed, flip_seed, rotate_seed = _split(seed, 3)
        images = _rotate(images, config.rotate, rotate_seed)
        batch = tf.shape(images)[0]
        rows, columns = _fit(images.shape[1], images.shape[2], size)
        offsets = _uniform([batch, 2], crop_seed)
        rows = _padded_crop(rows, offsets[:, 0], size, config.weak_padding)
        columns = _padded_crop(columns, offsets[:, 1], size, config.weak_padding)
        columns = _flip(columns, config.flip, flip_seed)
        return geometry.mix(images, rows, columns)

    return policy


def simclr(
    config: AugmentConfig,
    size: int,
    mean: Mean,
    *,
    blur: float = 0.0,
    solarize: float = 0.0,
    area: tuple[float, float] | None = None,
) -> Policy:
    """SimCLR's views as SCAN's official configuration has them (no blur).

    Random resized crop, flip, colour jitter with its four ops in random order, random greyscale.
    With the probability `blur` then SimCLR's Gaussian blur (appendix A), with the probability
    `solarize` BYOL's inversion of the levels from 128 on (appendix B); 0 in 0..1 is never.
    Crops show the shares `area` of the image in place of the config's.
    """
    config = config if area is None else dataclasses.replace(config, crop_scale=area)

    def policy(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        crop_seed, flip_seed, jitter_seed, grey_seed, rotate_seed = _split(seed, 5)
        images = _rotate(images, config.rotate, rotate_seed)
        batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
        top, left, crop_height, crop_width = draw_crop(config, batch, height, width, crop_seed)
        rows = geometry.resize_matrix(top, crop_height, size, height)
        columns = geometry.resize_matrix(left, crop_width, size, width)
        images = geometry.mix(images, rows, _flip(columns, config.flip, flip_seed))
        images = _jitter(images, config, jitter_seed)
        grey = _chance(batch, config.grayscale_probability, grey_seed)
        images = tf.where(grey[:, None, None, None], color.grayscale(images), images)
        extra = tf.random.experimental.stateless_fold_in(grey_seed, 1)
        blur_seed, sigma_seed, solarize_seed = _split(extra, 3)
        if blur:
            sigma = _uniform([batch], sigma_seed, *BLUR_SIGMA)
            kernel = geometry.blur_matrix(sigma, size, blur_radius(size))
            blurred = _chance(batch, blur, blur_seed)[:, None, None]
            kernel = tf.where(blurred, kernel, tf.eye(size))
            images = geometry.mix(images, kernel, kernel)
        if solarize:
            inverted = _chance(batch, solarize, solarize_seed)[:, None, None, None]
            images = tf.where(inverted, color.solarize(images), images)
        return images

    return policy


def strong(config: AugmentConfig, size: int, mean: Mean) -> Policy:
    """SCAN's strong augmentation (RandAugment of Cubuk et al., 2020, then Cutout).

    Resize when larger, flip, random crop without padding, `strong_ops` operations drawn with
    replacement and always applied, one cutout hole in the mean colour (0 once normalised).
    """

    def policy(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        crop_seed, flip_seed, op_seed, magnitude_seed, hole_seed = _split(seed, 5)
        batch = tf.shape(images)[0]
        rows, columns = _fit(images.shape[1], images.shape[2], size)
        offsets = _uniform([batch, 2], crop_seed)
        rows = _padded_crop(rows, offsets[:, 0], size, 0)
        columns = _flip(_padded_crop(columns, offsets[:, 1], size, 0), config.flip, flip_seed)
        levels = tf.round(geometry.mix(images, rows, columns) * 255.0)
        shape = [batch, config.strong_ops]
        drawn = _integers(_uniform(shape, op_seed), len(ops.STRONG_OPS) - 1)
        low, high = tf.unstack(tf.constant(list(ops.STRONG_OPS.values())), axis=1)
        low, high = tf.gather(low, drawn), tf.gather(high, drawn)
        magnitude = low + (high - low) * _uniform(shape, magnitude_seed)
        for slot in range(config.strong_ops):
            levels = ops.apply_ops(levels, drawn[:, slot], magnitude[:, slot])
        hole = _hole(batch, size, cutout_limit(config, size), hole_seed)
        return tf.where(hole[..., None], tf.constant(mean), levels / 255.0)

    return policy


def cutout_limit(config: AugmentConfig, size: int) -> int:
    """Longest side of the hole: the config's, or 16 at 32, 32 at 96 and 75 at 224 pixels."""
    if config.cutout is not None:
        return config.cutout
    return round(size / 2) if size <= 32 else round(size / 3)


def blur_radius(size: int) -> int:
    """Pixels on each side of the blur's centre: its kernel is a tenth of the image (SimCLR)."""
    return max(1, size // 20)


def _hole(batch: tf.Tensor, size: int, limit: int, seed: tf.Tensor) -> tf.Tensor:
    """Bool [B,size,size]: a square about a random pixel, its side a whole number in 1..limit."""
    place = _uniform([batch, 3], seed)
    side = _integers(place[:, 0], limit - 1) + 1
    start = _integers(place[:, 1:], size - 1) - side[:, None] // 2
    pixel = tf.range(size)[None, None, :]
    inside = (pixel >= start[..., None]) & (pixel < (start + side[:, None])[..., None])
    return inside[:, 0, :, None] & inside[:, 1, None, :] & (limit > 0)


def draw_crop(
    config: AugmentConfig, batch: tf.Tensor, height: int, width: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Boxes of RandomResizedCrop (Szegedy et al., 2015; torchvision's rules).

    Ten boxes are drawn per image: area uniform in `crop_scale`, log aspect ratio uniform in
    `crop_ratio`. The first that fits is taken; if none does, the largest centred box within the
    ratio limits.

    Returns:
        top, left, height, width: f32 [B], whole numbers.
    """
    area_seed, ratio_seed, place_seed = _split(seed, 3)
    attempts = [batch, 10]
    area = _uniform(attempts, area_seed, *config.crop_scale) * height * width
    low, high = config.crop_ratio
    ratio = tf.exp(_uniform(attempts, ratio_seed, math.log(low), math.log(high)))
    heights, widths = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
    any_fits = tf.reduce_any(fits, axis=1)
    fallback_width = min(width, round(height * high))
    fallback_height = min(height, round(width / low))
    box_height = tf.where(any_fits, tf.gather(heights, first, batch_dims=1), fallback_height)
    box_width = tf.where(any_fits, tf.gather(widths, first, batch_dims=1), fallback_width)
    place = tf.where(any_fits[:, None], _uniform([batch, 2], place_seed), 0.5)
    top = _integers(place[:, 0], height - box_height)
    left = _integers(place[:, 1], width - box_width)
    return tf.cast(top, tf.float32), tf.cast(left, tf.float32), box_height, box_width


def _jitter(images: tf.Tensor, config: AugmentConfig, seed: tf.Tensor) -> tf.Tensor:
    factor_seed, order_seed, chance_seed = _split(seed, 3)
    batch = tf.shape(images)[0]
    strength = tf.constant(config.jitter)
    low = tf.concat([tf.maximum(0.0, 1.0 - strength[:3]), -strength[3:]], 0)
    high = tf.concat([1.0 + strength[:3], strength[3:]], 0)
    factors = low + (high - low) * _uniform([batch, 4], factor_seed)
    order = tf.argsort(_uniform([batch, 4], order_seed))
    jittered = color.color_jitter(images, factors, order)
    chosen = _chance(batch, config.jitter_probability, chance_seed)
    return tf.where(chosen[:, None, None, None], jittered, images)


def _rotate(images: tf.Tensor, limit: float, seed: tf.Tensor) -> tf.Tensor:
    if limit == 0:
        return images
    degrees = _uniform([tf.shape(images)[0]], seed, -limit, limit)
    return geometry.rotate_bilinear(images, degrees)


def _flip(columns: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Mirror the images by reversing the rows of their column matrices [B,S,W]."""
    chosen = _chance(tf.shape(columns)[0], probability, seed)
    return tf.where(chosen[:, None, None], tf.reverse(columns, [1]), columns)


def _fit(height: int, width: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Matrices [1,H',H] and [1,W',W] that make the shorter side `size`, keeping the shape."""
    short = min(height, width)
    return _fit_axis(height, short, size), _fit_axis(width, short, size)


def _fit_axis(full: int, short: int, size: int) -> tf.Tensor:
    if short == size:
        return tf.eye(full, batch_shape=[1])
    return geometry.resize_matrix(
        tf.zeros([1]), tf.fill([1], float(full)), size * full // short, full
    )


def _centre(matrix: tf.Tensor, size: int) -> tf.Tensor:
    start = round((matrix.shape[1] - size) / 2)
    return matrix[:, start : start + size]


def _padded_crop(matrix: tf.Tensor, place: tf.Tensor, size: int, padding: int) -> tf.Tensor:
    """Rows [B,size,full] of `matrix` [1,L,full] at a random place after reflect padding."""
    length = matrix.shape[1]
    start = _integers(place, length + 2 * padding - size) - padding
    index = tf.abs(start[:, None] + tf.range(size)[None, :])
    # Reflection without repeating the border; modulo lets the padding exceed the image.
    period = max(1, 2 * (length - 1))
    index %= period
    return tf.gather(matrix[0], tf.minimum(index, period - index))


def _integers(place: tf.Tensor, last: tf.Tensor | float) -> tf.Tensor:
    """Whole numbers int32 in 0..last, equally likely for `place` uniform in 0..1."""
    last = tf.cast(last, tf.float32)
    return tf.cast(tf.minimum(tf.floor(place * (last + 1.0)), last), tf.int32)


def _chance(batch: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    return _uniform([batch], seed) < probability


def _uniform(shape: list[Any], seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """f32 in [low, high), made from integers: XLA and plain TensorFlow draw other floats.

    A replica draws for all images of the batch and keeps what is for its own.
    """
    mine = replicas.part()
    if mine is not None:
        shape = [mine.count * mine.rows, *shape[1:]]
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")
    bits = replicas.own(bits)
    fraction = tf.cast(tf.bitwise.bitwise_and(bits, 2**24 - 1), tf.float32) / 2.0**24
    return low + (high - low) * fraction


def _split(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    seeds = tf.random.experimental.stateless_split(seed, count, alg="philox")
    return tf.unstack(seeds, num=count)
