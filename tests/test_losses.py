from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from scan_tf.methods import losses

ORACLE = np.load(pathlib.Path(__file__).parent / "data" / "losses.npz")


def unit_rows(rng, count, dim):
    x = rng.standard_normal((count, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


def softmax(logits):
    e = np.exp(np.asarray(logits, "float64") - np.max(logits))
    return e / e.sum()


def oracle(case, *names):
    return [ORACLE[f"{case}_{name}"] for name in names]


# The same numbers as the official code


@pytest.mark.parametrize("i", range(3))
def test_nt_xent_is_the_official_one(i):
    features, temperature, loss = oracle(f"simclr{i}", "features", "temperature", "loss")
    ours = losses.nt_xent(features[:, 0], features[:, 1], float(temperature), symmetric=False)
    np.testing.assert_allclose(ours, loss, rtol=1e-5)


@pytest.mark.parametrize("i", range(3))
def test_scan_loss_is_the_official_one(i):
    anchors, neighbors, weight, *expected = oracle(
        f"scan{i}", "anchors", "neighbors", "entropy_weight", "total", "consistency", "entropy"
    )
    ours = losses.scan_loss(anchors, neighbors, float(weight))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("i", range(3))
def test_confident_cross_entropy_is_the_official_one(i):
    weak, strong, threshold, balanced, expected = oracle(
        f"selflabel{i}", "weak", "strong", "threshold", "balanced", "loss"
    )
    ours, _ = losses.confident_cross_entropy(weak, strong, float(threshold), bool(balanced))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_entropy_is_the_official_one():
    np.testing.assert_allclose(
        losses.entropy(ORACLE["entropy_probs"]), ORACLE["entropy_value"], rtol=1e-5
    )


# The same numbers as loops written from the papers


def naive_nt_xent(a, b, temperature, symmetric):
    vectors = [*a.astype("float64"), *b.astype("float64")]
    size = len(a)
    terms = []
    for i in range(2 * size if symmetric else size):
        positive = (i + size) % (2 * size)
        exps = {
            k: math.exp(float(vectors[i] @ vectors[k]) / temperature)
            for k in range(2 * size)
            if k != i
        }
        terms.append(-math.log(exps[positive] / sum(exps.values())))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("size", "temperature"), [(2, 0.1), (7, 0.5)])
def test_nt_xent_follows_the_paper(rng, symmetric, size, temperature):
    a, b = unit_rows(rng, size, 5), unit_rows(rng, size, 5)
    expected = naive_nt_xent(a, b, temperature, symmetric)
    ours = losses.nt_xent(a, b, temperature, symmetric=symmetric)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_symmetric_nt_xent_is_the_mean_of_both_sides(rng):
    a, b = unit_rows(rng, 6, 8), unit_rows(rng, 6, 8)
    sides = losses.nt_xent(a, b, 0.2) + losses.nt_xent(b, a, 0.2)
    np.testing.assert_allclose(losses.nt_xent(a, b, 0.2, symmetric=True), sides / 2, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_nt_xent_of_equal_vectors(symmetric):
    same = tf.ones([8, 4]) / 2
    ours = losses.nt_xent(same, same, 0.1, symmetric=symmetric)
    np.testing.assert_allclose(ours, math.log(15), rtol=1e-6)


def naive_scan_loss(anchors, neighbors, weight):
    p = [softmax(row) for row in anchors]
    q = [softmax(row) for row in neighbors]
    pairs = zip(p, q, strict=True)
    consistency = sum(-math.log(float(x @ y)) for x, y in pairs) / len(p)
    mean = sum(p) / len(p)
    entropy = -sum(float(x) * math.log(float(x)) for x in mean)
    return consistency - weight * entropy, consistency, entropy


def test_scan_loss_follows_the_paper_for_each_head(rng):
    anchors, neighbors = 3 * rng.standard_normal((2, 4, 6, 5)).astype("float32")
    total, consistency, entropy = losses.scan_loss(anchors, neighbors, 2.0)
    assert total.shape == consistency.shape == entropy.shape == (4,)
    for head in range(4):
        expected = naive_scan_loss(anchors[head], neighbors[head], 2.0)
        ours = (total[head], consistency[head], entropy[head])
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_scan_loss_of_certain_balanced_pairs_is_its_minimum():
    logits = 50 * np.eye(5, dtype="float32")
    total, consistency, entropy = losses.scan_loss(logits, logits, 5.0)
    np.testing.assert_allclose(consistency, 0, atol=1e-6)
    np.testing.assert_allclose(entropy, math.log(5), rtol=1e-6)
    np.testing.assert_allclose(total, -5 * math.log(5), rtol=1e-6)


def test_entropy_of_uniform_and_certain_distributions():
    probs = np.stack([np.full(8, 1 / 8), np.eye(8)[3]])
    np.testing.assert_allclose(losses.entropy(probs), [math.log(8), 0], rtol=1e-6, atol=2e-6)


def naive_confident_cross_entropy(weak, strong, threshold, balanced):
    rows = []
    for w, s in zip(weak, strong, strict=True):
        probs = softmax(w)
        if probs.max() > threshold:
            rows.append((int(probs.argmax()), -math.log(softmax(s)[probs.argmax()])))
    targets = [target for target, _ in rows]
    weights = [len(rows) / targets.count(t) if balanced else 1.0 for t in targets]
    weighted = sum(w * loss for w, (_, loss) in zip(weights, rows, strict=True))
    return weighted / sum(weights), len(rows)


@pytest.mark.parametrize("balanced", [False, True])
def test_confident_cross_entropy_follows_the_paper(rng, balanced):
    weak, strong = 4 * rng.standard_normal((2, 60, 4)).astype("float32")
    weak[:, 1] += 2  # an unbalanced case
    ours = losses.confident_cross_entropy(weak, strong, 0.9, balanced)
    expected = naive_confident_cross_entropy(weak, strong, 0.9, balanced)
    assert 10 < expected[1] < 50
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_confidence_must_exceed_the_threshold():
    weak = np.array([[0.0, 0.0], [1.0, 0.0]], "float32")
    assert losses.confident_cross_entropy(weak, weak, 0.5)[1] == 1


def test_rotation_cross_entropy(rng):
    logits = rng.standard_normal((12, 4)).astype("float32")
    labels = np.tile(np.arange(4), 3)
    pairs = zip(logits, labels, strict=True)
    expected = np.mean([-math.log(softmax(row)[label]) for row, label in pairs])
    np.testing.assert_allclose(losses.rotation_cross_entropy(logits, labels), expected, rtol=1e-5)


# Gradients


def gradient(function, *inputs):
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = function(*inputs)
    return tape.gradient(loss, inputs)


def test_without_a_confident_image_loss_and_gradient_are_zero(rng):
    weak, strong = 0.1 * rng.standard_normal((2, 8, 5)).astype("float32")
    loss, num_confident = losses.confident_cross_entropy(weak, strong, 0.99)
    assert loss == num_confident == 0
    slope = gradient(lambda s: losses.confident_cross_entropy(weak, s, 0.99)[0], strong)[0]
    np.testing.assert_array_equal(slope, np.zeros((8, 5)))


def test_weak_logits_get_no_gradient(rng):
    weak, strong = 9 * rng.standard_normal((2, 8, 5)).astype("float32")
    slopes = gradient(lambda w, s: losses.confident_cross_entropy(w, s, 0.9)[0], weak, strong)
    assert slopes[0] is None
    assert np.abs(slopes[1]).max() > 0


@pytest.mark.parametrize("scale", [1.0, 60.0, 1e4, 1e30])
def test_scan_gradient_is_finite(rng, scale):
    anchors, neighbors = scale * rng.standard_normal((2, 16, 10)).astype("float32")
    slopes = gradient(lambda a, n: losses.scan_loss(a, n, 5.0)[0], anchors, neighbors)
    assert np.isfinite(slopes).all()


def test_scan_gradient_lives_where_the_product_of_probabilities_underflows():
    # <p, q> is about e^-95: less than the smallest normal float32, but above the floor of -100.
    anchors = np.array([[95.0, 0.0]], "float32")
    loss = losses.scan_loss(anchors, -anchors, 0.0)[1]
    np.testing.assert_allclose(loss, 95 - math.log(2), rtol=1e-6)
    slope = gradient(lambda a: losses.scan_loss(a, -anchors, 0.0)[1], anchors)[0]
    np.testing.assert_allclose(slope, [[0.5, -0.5]], rtol=1e-4)


def test_scan_loss_has_a_floor_under_the_logarithm():
    anchors = np.array([[1e4, 0.0]], "float32")
    assert losses.scan_loss(anchors, -anchors, 0.0)[1] == 100


# Precision and compilation


CASES = {
    "nt_xent": lambda x, y: losses.nt_xent(x, y, 0.1),
    "nt_xent_symmetric": lambda x, y: losses.nt_xent(x, y, 0.1, symmetric=True),
    "scan": lambda x, y: tf.stack(losses.scan_loss(x, y, 5.0)),
    "confident": lambda x, y: tf.stack(losses.confident_cross_entropy(9 * x, y, 0.9)),
    "rotation": lambda x, y: losses.rotation_cross_entropy(x, tf.argmax(y, -1)),
    "entropy": lambda x, y: losses.entropy(tf.nn.softmax(x)),
}


def test_compiled_equals_eager(rng):
    x, y = unit_rows(rng, 16, 8), unit_rows(rng, 16, 8)

    def every(x, y):
        return {name: case(x, y) for name, case in CASES.items()}

    compiled = tf.function(every, jit_compile=True)(x, y)
    for name, eager in every(x, y).items():
        np.testing.assert_allclose(compiled[name], eager, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_computed_in_float32(rng, name):
    x, y = (tf.cast(unit_rows(rng, 16, 8), tf.bfloat16) for _ in range(2))
    if name in ("confident", "entropy"):  # their operands are made from x with a bfloat16 op
        x = tf.cast(tf.round(tf.cast(x, tf.float32)), tf.bfloat16)
    exact = CASES[name](tf.cast(x, tf.float32), tf.cast(y, tf.float32))
    ours = CASES[name](x, y)
    assert ours.dtype == tf.float32
    tolerance = 1e-2 if name == "entropy" else 1e-5
    np.testing.assert_allclose(ours, exact, rtol=tolerance)


# TEMI


def test_temi_has_the_value_of_an_independent_implementation():
    """Computed in float64 with NumPy from equations 5 to 8 and the official code's constants."""
    i, j = np.arange(4)[:, None], np.arange(3)
    x, y = np.sin(1 + 3 * i + j), np.cos(0.5 + 3 * i + j)
    logits = tuple(tf.constant(v[None] / 0.1, tf.float32) for v in (x, y))
    loss, prior = losses.temi_loss(logits, logits, tf.fill([1, 3], 1 / 3))
    np.testing.assert_allclose(loss, [-0.380380], atol=1e-5)
    np.testing.assert_allclose(prior, [[0.335705, 0.320424, 0.343871]], atol=1e-6)


def test_temi_heads_do_not_see_each_other_but_for_the_weights(rng):
    first, second = (tf.constant(rng.normal(size=(2, 8, 3)), tf.float32) for _ in range(2))
    even = tf.fill([2, 3], 1 / 3)
    loss, prior = losses.temi_loss((first, second), (first, second), even, beta=1.0)
    swapped, other = losses.temi_loss(
        (first[::-1], second[::-1]), (first[::-1], second[::-1]), even, beta=1.0
    )
    np.testing.assert_allclose(loss, swapped[::-1], rtol=1e-5)
    np.testing.assert_allclose(prior, other[::-1], rtol=1e-5)


def test_temi_is_lowest_where_pairs_agree_and_clusters_are_even():
    agree = tf.constant(20 * np.eye(4)[None], tf.float32)
    one = tf.constant(20 * np.eye(4)[[0, 0, 0, 0]][None], tf.float32)
    even = tf.fill([1, 4], 0.25)
    best, *others = (
        float(losses.temi_loss((a, b), (a, b), even)[0][0])
        for a, b in ((agree, agree), (agree, one), (one, one), (0 * one, 0 * one))
    )
    assert best < min(others)
