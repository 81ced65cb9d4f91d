from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from scan_tf.models.layers import BatchNorm, Conv, Linear

pytestmark = pytest.mark.usefixtures("seeded")


def naive_conv(x, kernel, strides):
    """Cross-correlation with (k - 1) // 2 zeros on every side, by loops over the output."""
    side = kernel.shape[0] // 2
    padded = np.pad(x, [(0, 0), (side, side), (side, side), (0, 0)])
    out = -(-x.shape[1] // strides)
    result = np.zeros((len(x), out, out, kernel.shape[-1]))
    for row in range(out):
        for column in range(out):
            top, left = row * strides, column * strides
            patch = padded[:, top : top + len(kernel), left : left + len(kernel)]
            result[:, row, column] = np.einsum("nhwc,hwcf->nf", patch, kernel)
    return result


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_conv_pads_both_sides_alike(rng, size, kernel_size, strides):
    layer = Conv(4, kernel_size, strides)
    x = rng.standard_normal((2, size, size, 3)).astype("float32")
    ours = layer(x)
    np.testing.assert_allclose(ours, naive_conv(x, layer.kernel.numpy(), strides), atol=1e-4)


def test_conv_starts_kaiming_normal_fan_out():
    layer = Conv(64, 3)
    layer.build((None, 8, 8, 32))
    kernel = layer.kernel.numpy()
    assert kernel.shape == (3, 3, 32, 64)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    # Not truncated: about 5 in 100,000 are beyond four deviations, the truncated have none at 2.3.
    assert np.abs(kernel).max() > 3.5 * kernel.std()


def test_linear_starts_uniform_in_the_inverse_root_of_the_inputs():
    layer = Linear(200)
    layer.build((None, 64))
    for values in (layer.kernel.numpy(), layer.bias.numpy()):
        assert 0.95 / 8 < np.abs(values).max() <= 1 / 8
        np.testing.assert_allclose(values.std(), 1 / 8 / np.sqrt(3), rtol=0.1)


def test_linear_is_a_matrix_product_and_a_bias(rng):
    layer = Linear(5)
    x = rng.standard_normal((4, 3)).astype("float32")
    ours = layer(x)
    np.testing.assert_allclose(
        ours, x @ layer.kernel.numpy() + layer.bias.numpy(), rtol=1e-5, atol=1e-6
    )


def test_linear_without_a_bias(rng):
    layer = Linear(5, use_bias=False)
    x = rng.standard_normal((4, 3)).astype("float32")
    np.testing.assert_allclose(layer(x), x @ layer.kernel.numpy(), rtol=1e-5, atol=1e-6)
    assert [v.name for v in layer.variables] == ["kernel"]


def test_batch_norm_without_scale_and_offset(rng):
    layer, other = BatchNorm(affine=False), BatchNorm()
    x = (3 + 2 * rng.standard_normal((6, 5, 5, 4))).astype("float32")
    for training in (True, False):
        np.testing.assert_array_equal(layer(x, training=training), other(x, training=training))
    assert [v.name for v in layer.variables] == ["moving_mean", "moving_variance"]
    assert not layer.trainable_variables


def test_batch_norm_by_the_formula(rng):
    layer = BatchNorm()
    layer.build((None, 5, 5, 4))
    start = {v.name: rng.uniform(0.5, 1.5, 4).astype("float32") for v in layer.variables}
    for variable in layer.variables:
        variable.assign(start[variable.name])
    x = (3 + 2 * rng.standard_normal((6, 5, 5, 4))).astype("float32")

    def normalised(mean, variance):
        return (x - mean) / np.sqrt(variance + 1e-5) * start["gamma"] + start["beta"]

    in_inference = layer(x, training=False)
    expected = normalised(start["moving_mean"], start["moving_variance"])
    np.testing.assert_allclose(in_inference, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, start["moving_mean"])

    in_training = layer(x, training=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(in_training, normalised(mean, variance), rtol=1e-4, atol=1e-5)
    unbiased = x.var((0, 1, 2), ddof=1)
    assert not np.allclose(unbiased, variance, rtol=1e-4)
    np.testing.assert_allclose(
        layer.moving_mean, 0.9 * start["moving_mean"] + 0.1 * mean, rtol=1e-5
    )
    np.testing.assert_allclose(
        layer.moving_variance, 0.9 * start["moving_variance"] + 0.1 * unbiased, rtol=1e-5
    )


def test_batch_norm_keeps_float32_statistics_of_bfloat16_activations(rng):
    policy = "mixed_bfloat16"
    layer, exact = BatchNorm(dtype=policy), BatchNorm()
    x = tf.cast(1 + rng.standard_normal((8, 6, 6, 4)), tf.bfloat16)
    y, expected = layer(x, training=True), exact(tf.cast(x, tf.float32), training=True)
    assert y.dtype == tf.bfloat16
    assert {v.dtype for v in layer.variables} == {"float32"}
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=1e-2, atol=1e-2)
    for ours, other in zip(layer.variables, exact.variables, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_compiled_equals_eager(rng, jit_compile, training):
    eager, compiled = BatchNorm(), BatchNorm()
    x = tf.constant(1 + rng.standard_normal((4, 3, 3, 2)), tf.float32)
    compiled.build(x.shape)
    call = tf.function(lambda x: compiled(x, training=training), jit_compile=jit_compile)
    np.testing.assert_allclose(call(x), eager(x, training=training), rtol=1e-4, atol=1e-5)
    for ours, other in zip(compiled.variables, eager.variables, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda p: Conv(3, 3, 2, dtype=p), lambda p: Linear(3, dtype=p)])
def test_mixed_precision_computes_in_bfloat16_with_float32_variables(rng, make):
    layer, exact = make("mixed_bfloat16"), make("float32")
    x = rng.standard_normal((2, 4, 4, 3) if isinstance(layer, Conv) else (2, 3)).astype("float32")
    y = layer(x)
    exact.build(x.shape)
    for ours, other in zip(exact.variables, layer.variables, strict=True):
        ours.assign(other)
    assert y.dtype == tf.bfloat16
    assert {v.dtype for v in layer.variables} == {"float32"}
    np.testing.assert_allclose(tf.cast(y, tf.float32), exact(x), rtol=0.03, atol=0.03)


def test_the_same_seed_gives_the_same_values():
    values = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layer = Conv(4, 3)
        layer.build((None, 8, 8, 3))
        values.append(layer.kernel.numpy())
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
