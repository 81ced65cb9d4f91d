"""The primitives of scan_tf.augment against PIL, colorsys, numpy and the official code."""

from __future__ import annotations

import colorsys
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from scan_tf.augment import color, geometry, host, ops

NAMES = list(ops.STRONG_OPS)
STORED = pathlib.Path(__file__).parent / "data" / "augment_ops.npz"


def run(function, *arguments, jit):
    """Eagerly (None), as a graph (False) or compiled by XLA (True)."""
    if jit is None:
        return function(*arguments).numpy()
    return tf.function(function, jit_compile=jit, autograph=False)(*arguments).numpy()


def apply_rows(images, names, magnitudes, jit):
    """Image i by names[i] at magnitudes[i], all in one call."""
    op = tf.constant([NAMES.index(name) for name in names])
    magnitude = tf.constant(magnitudes, tf.float64)
    return run(ops.apply_ops, tf.constant(images, tf.float32), op, magnitude, jit=jit)


@pytest.mark.parametrize("jit", [False, True])
def test_official_pixels(jit):
    with np.load(STORED) as stored:
        images, outputs = stored["images"], stored["outputs"]
        names, magnitudes = stored["op"], stored["magnitude"]
    count = len(images)
    batch = np.tile(images, (len(names), 1, 1, 1))
    found = apply_rows(batch, np.repeat(names, count), np.repeat(magnitudes, count), jit)
    differ = (found != outputs.reshape(found.shape)).sum(axis=(1, 2, 3))
    assert set(names) == set(NAMES)
    assert not differ.any(), list(np.repeat(names, count)[differ > 0])


@pytest.mark.parametrize("side", ["32", "96"])
def test_official_pixels_of_every_row(shared, side):
    rows = json.loads((shared / "oracles" / "augment_ops.json").read_text())
    rows = [row for row in rows if row["images"] == side]
    with np.load(shared / "oracles" / "augment_ops.npz") as stored:
        images, outputs = stored[f"images{side}"], [stored[row["key"]] for row in rows]
    names = np.repeat([row["op"] for row in rows], len(images))
    magnitudes = np.repeat([row["magnitude"] for row in rows], len(images))
    batch = np.tile(images, (len(rows), 1, 1, 1))
    found = apply_rows(batch, names, magnitudes, jit=None)
    assert len(rows) == 56
    np.testing.assert_array_equal(found, np.concatenate(outputs))


@pytest.mark.parametrize("shape", [(32, 32), (7, 12), (1, 5)])
def test_strong_ops_are_pil(rng, shape):
    """Random magnitudes on noise, gradients, narrow histograms and constant images."""
    names, magnitudes, images = [], [], []
    for name, (low, high) in ops.STRONG_OPS.items():
        for kind in range(8):
            names.append(name)
            magnitudes.append(rng.uniform(low, high))
            images.append(picture(rng, kind, *shape))
    found = apply_rows(np.stack(images), names, magnitudes, jit=None)
    for name, magnitude, image, levels in zip(names, magnitudes, images, found, strict=True):
        expected = host.apply_op(name, image, magnitude)
        np.testing.assert_array_equal(levels, expected, err_msg=f"{name} {magnitude}")


def picture(rng, kind, height, width):
    noise = rng.integers(0, 256, (height, width, 3))
    ramp = np.linspace(0, 255, height * width).reshape(height, width, 1) * np.ones(3)
    dark, constant = rng.integers(3, 9, (height, width, 3)), np.full((height, width, 3), 77)
    mostly = np.where(noise < 200, 10, noise)
    return [noise, ramp, dark, constant, mostly, noise // 2, 255 - dark, noise][kind].astype("u1")


def test_autocontrast_rounds_as_pil_for_every_range():
    """Every pair of lowest and highest level: the cases where double rounding shows."""
    pairs = [(low, high) for low in range(0, 255, 9) for high in range(low + 1, 256, 7)]
    images = np.stack([np.clip(np.arange(256), low, high) for low, high in pairs])
    images = np.repeat(images.reshape(-1, 16, 16, 1), 3, axis=-1).astype(np.uint8)
    expected = np.stack([host.apply_op("AutoContrast", image, 0.0) for image in images])
    levels = tf.constant(images, tf.float32)
    for jit in (None, True):
        found = run(ops._autocontrast, levels, tf.zeros(len(pairs)), jit=jit)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("jit", [None, True])
@pytest.mark.parametrize(("batch", "every"), [(1, 1), (33, 1), (100, 1), (65, 64)])
def test_subset_takes_the_chosen_images_once(batch, every, jit):
    """Fewer than a chunk, exactly all, and last chunks that reach back."""
    images = tf.reshape(tf.range(batch, dtype=tf.float32), [batch, 1, 1, 1])
    chosen, offsets = tf.range(batch) % every == 0, tf.range(batch, dtype=tf.float32)

    def twice(images, chosen):
        return ops._for_subset(
            images, chosen, offsets, lambda x, offset: 2 * x + offset[:, None, None, None]
        )

    expected = np.where(np.arange(batch) % every == 0, 3 * np.arange(batch), np.arange(batch))
    np.testing.assert_array_equal(run(twice, images, chosen, jit=jit).ravel(), expected)


def test_apply_op_is_one_operation_for_all(rng):
    images = rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    found = ops.apply_op("Rotate", tf.constant(images, tf.float32), 17.0).numpy()
    np.testing.assert_array_equal(found, [host.apply_op("Rotate", i, 17.0) for i in images])


@pytest.mark.parametrize("box", [(3, 5, 30, 41), (0, 0, 40, 48), (10, 7, 5, 9), (39, 47, 1, 1)])
def test_crop_and_resize_as_pil(rng, box):
    """Larger and smaller: within PIL's rounding after each of its two passes."""
    top, left, height, width = box
    image = rng.integers(0, 256, (40, 48, 3)).astype(np.uint8)
    picture = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = np.asarray(picture.resize((20, 16), Image.Resampling.BILINEAR))
    rows = geometry.resize_matrix(tf.constant([float(top)]), tf.constant([float(height)]), 16, 40)
    columns = geometry.resize_matrix(
        tf.constant([float(left)]), tf.constant([float(width)]), 20, 48
    )
    found = geometry.mix(tf.constant(image[None] / 255, tf.float32), rows, columns)[0]
    assert found.shape == (16, 20, 3)
    assert np.abs(found * 255 - expected).max() < 1.01
    np.testing.assert_allclose(tf.reduce_sum(rows, -1), 1, rtol=1e-6)


def test_enlarging_is_plain_bilinear(rng):
    line = rng.random(5)
    matrix = geometry.resize_matrix(tf.constant([0.0]), tf.constant([5.0]), 12, 5)[0].numpy()
    expected = np.interp((np.arange(12) + 0.5) * 5 / 12 - 0.5, np.arange(5), line)
    np.testing.assert_allclose(matrix @ line, expected, atol=1e-6)


def test_mix_moves_pixels_exactly(rng):
    images = tf.constant(rng.integers(0, 256, (2, 6, 7, 3)) / 255, tf.float32)
    rows, columns = tf.eye(6)[None, ::-1], tf.eye(7)[None, 2:5]
    found = geometry.mix(images, rows, columns).numpy()
    np.testing.assert_array_equal(found, images.numpy()[:, ::-1, 2:5])


def test_rotation_by_right_angles_and_between(rng):
    images = tf.constant(rng.random((4, 9, 9, 3)), tf.float32)
    found = geometry.rotate_bilinear(images, tf.constant([0.0, 90.0, 180.0, -90.0])).numpy()
    expected = [np.rot90(image, turns) for image, turns in zip(images, (0, 1, 2, -1), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    ramp = np.broadcast_to(np.arange(9.0)[None, :, None], (1, 9, 9, 3))
    turned = geometry.rotate_bilinear(tf.constant(ramp, tf.float32), tf.constant([45.0]))
    # A linear image stays linear: along the diagonal the ramp advances sqrt(1/2) a pixel.
    np.testing.assert_allclose(turned[0, 4, 4:7, 0], 4 + np.arange(3) * np.sqrt(0.5), atol=1e-5)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.083, 0.3])
def test_hue_is_exact_hsv(rng, shift):
    pixels = np.concatenate([rng.random((58, 3)), np.eye(3), 1 - np.eye(3)])
    pixels = np.concatenate([pixels, [[0, 0, 0], [0.4, 0.4, 0.4]], rng.random((2, 3))])
    turned = []
    for pixel in pixels:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        turned.append(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
    images = tf.constant(pixels.reshape(1, -1, 4, 3), tf.float32)
    found = color.shift_hue(images, tf.constant([shift])).numpy()
    np.testing.assert_allclose(found.reshape(-1, 3), turned, atol=3e-6)


@pytest.mark.parametrize("jit", [None, True])
def test_jitter_applies_four_ops_in_each_images_order(rng, jit):
    orders = np.stack([rng.permutation(4) for _ in range(48)])
    factors = np.concatenate([rng.uniform(0.6, 1.4, (48, 3)), rng.uniform(-0.1, 0.1, (48, 1))], 1)
    images = rng.random((48, 4, 5, 3)).astype(np.float32)
    inputs = (tf.constant(images), tf.constant(factors, tf.float32), tf.constant(orders, tf.int32))
    found = run(color.color_jitter, *inputs, jit=jit)
    for image, factor, order, jittered in zip(images, factors, orders, found, strict=True):
        np.testing.assert_allclose(jittered, jitter_by_steps(image, factor, order), atol=1e-5)


def jitter_by_steps(image, factors, order):
    for op in order:
        grey = image @ np.array(color.LUMA)
        if op == 3:
            image = color.shift_hue(tf.constant(image[None], tf.float32), factors[3:])[0].numpy()
            continue
        other = [0.0, grey.mean(), grey[..., None]][op]
        image = np.clip(factors[op] * image + (1 - factors[op]) * other, 0, 1)
    return image
