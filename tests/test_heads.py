from __future__ import annotations

import numpy as np
import official_names
import pytest
import tensorflow as tf

from scan_tf.models.heads import MLP, ClusterHeads, ProjectionHead
from scan_tf.models.torch_names import load_torch

pytestmark = pytest.mark.usefixtures("seeded")


def test_projection_by_the_formula(rng):
    head = ProjectionHead(6, 7, 4)
    x = rng.standard_normal((5, 6)).astype("float32")
    ours = head(x)
    w1, b1, w2, b2 = (v.numpy() for v in head.variables)
    expected = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_projection_of_a_zero_vector_is_zero_with_a_finite_gradient():
    head = ProjectionHead(6, 7, 4)
    hidden, out = head.linears
    hidden.bias.assign(-np.ones(7))
    out.bias.assign(np.zeros(4))
    with tf.GradientTape() as tape:
        y = head(tf.zeros([2, 6]))
    np.testing.assert_array_equal(y, np.zeros((2, 4)))
    for slope in tape.gradient(y, head.trainable_variables):
        assert np.isfinite(slope).all()


def test_heads_are_float32_on_bfloat16_features():
    features = tf.ones([2, 6], tf.bfloat16)
    for head in (ProjectionHead(6, 7, 4), ClusterHeads(2, 3)):
        assert head(features).dtype == tf.float32
        assert {v.dtype for v in head.variables} == {"float32"}


def test_each_head_is_its_own_linear_layer(rng):
    heads = ClusterHeads(3, 4)
    x = rng.standard_normal((5, 6)).astype("float32")
    logits = heads(x)
    assert logits.shape == (3, 5, 4)
    for head, ours in zip(heads.heads, logits, strict=True):
        expected = x @ head.kernel.numpy() + head.bias.numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(logits[0], logits[1])


def test_gradients_reach_every_head_and_no_other(rng):
    heads = ClusterHeads(3, 4)
    x = rng.standard_normal((5, 6)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(heads(x)[1] ** 2)
    slopes = tape.gradient(loss, heads.trainable_variables)
    assert [bool(np.any(slope)) for slope in slopes] == [False, False, True, True, False, False]
    expected = 2 * x.T @ heads(x)[1].numpy()
    np.testing.assert_allclose(slopes[2], expected, rtol=1e-4, atol=1e-5)


def test_keep_copies_one_head(rng):
    heads = ClusterHeads(3, 4)
    x = rng.standard_normal((5, 6)).astype("float32")
    before = heads(x)[1]
    kept = heads.keep(1)
    heads.heads[1].kernel.assign(np.zeros((6, 4)))
    assert [v.path for v in kept.variables] == [v.path for v in heads.variables[:2]]
    np.testing.assert_array_equal(kept(x), before[None])


def test_keep_refuses_a_head_that_is_not_there():
    heads = ClusterHeads(2, 4)
    heads.build((None, 6))
    with pytest.raises(IndexError):
        heads.keep(2)


def test_the_official_values_are_ported(rng):
    heads = ClusterHeads(3, 10)
    heads.build((None, 512))
    tensors = official_names.tensors(official_names.cluster_heads(3, 10))
    load_torch(heads, tensors, "cluster_head.")
    x = rng.standard_normal((4, 512)).astype("float32")
    weight, bias = tensors["cluster_head.2.weight"], tensors["cluster_head.2.bias"]
    np.testing.assert_allclose(heads(x)[2], x @ weight.T + bias, rtol=1e-4, atol=1e-5)


def test_build_and_first_call_make_the_same_variables():
    built, called = ClusterHeads(2, 3), ClusterHeads(2, 3)
    built.build((None, 6))
    called(tf.zeros([1, 6]))
    names = [v.path for v in built.variables]
    assert names == [v.path for v in called.variables]
    assert len(set(names)) == 4


def test_stored_weights_know_the_layers_by_these_names():
    names = [v.path for v in ProjectionHead(6, 7, 4).variables]
    assert names == [
        f"projection/{n}" for n in ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")
    ]
    named = MLP((6, 4), name="rotation_head", layers=("linear",))
    assert [v.path for v in named.variables] == [
        "rotation_head/linear/kernel",
        "rotation_head/linear/bias",
    ]


def batch_norm(x, layer=None):
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return x if layer is None else x * layer.gamma.numpy() + layer.beta.numpy()


@pytest.mark.parametrize("norm", ["none", "hidden", "all"])
def test_mlp_by_the_formula(rng, norm):
    head = MLP((6, 9, 7, 4), name="head", norm=norm)
    for variable in head.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape))
    x = rng.standard_normal((8, 6)).astype("float32")
    ours = head(x, training=True)
    for i, linear in enumerate(head.linears):
        x = x @ linear.kernel.numpy() + (linear.bias.numpy() if linear.use_bias else 0)
        if norm == "all" and i == 2:
            x = batch_norm(x)
        elif norm != "none" and i < 2:
            x = batch_norm(x, head.norms[i])
        if i < 2:
            x = np.maximum(x, 0)
    np.testing.assert_allclose(ours, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("norm", "bias", "expected"),
    [
        ("none", True, "linear1/kernel linear1/bias linear2/kernel linear2/bias"),
        ("none", False, "linear1/kernel linear1/bias linear2/kernel"),
        ("hidden", True, "linear1/kernel linear2/kernel linear2/bias norm1/gamma norm1/beta"),
        ("hidden", False, "linear1/kernel linear2/kernel norm1/gamma norm1/beta"),
        ("all", True, "linear1/kernel linear2/kernel norm1/gamma norm1/beta"),
    ],
)
def test_mlp_has_no_bias_that_batch_norm_would_subtract(norm, bias, expected):
    head = MLP((6, 9, 4), name="head", norm=norm, bias=bias)
    assert [v.path for v in head.trainable_variables] == [f"head/{n}" for n in expected.split()]
    assert {v.dtype for v in head.variables} == {"float32"}


def test_mlp_in_inference_uses_the_running_averages(rng):
    head = MLP((6, 9, 4), name="head", norm="all")
    x = rng.standard_normal((8, 6)).astype("float32")
    before = [v.numpy() for v in head.variables]
    ours = head(x)
    np.testing.assert_allclose(head(x[:1]), ours[:1], rtol=1e-5, atol=1e-6)
    for variable, value in zip(head.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    head(x, training=True)
    assert np.ptp(head.norms[1].moving_mean) > 0
    assert not np.allclose(head(x), ours)


def test_mlp_computes_in_float32():
    x = tf.zeros([5, 6], tf.bfloat16)
    assert MLP((6, 4), name="one_layer")(x).dtype == tf.float32
