"""The losses of the pretexts: fixed numbers, loops written from the papers, degenerate cases.

The numbers of `CHECKED` were computed in float64 by another implementation of the papers'
formulas, for rows of sines and cosines (`wave`) that anybody can make again.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from scan_tf.methods import pretext_losses as pl
from scan_tf.methods import swav_loss
from scan_tf.methods.losses import info_nce, nt_xent


def wave(function, start, rows):
    """Row i, column j: function(start + 3 i + j), [rows,3]."""
    return function(start + 3 * np.arange(rows)[:, None] + np.arange(3)[None, :])


def norm(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


X, Y = wave(np.sin, 1.0, 4), wave(np.cos, 0.5, 4)
A, B = norm(X), norm(Y)
QUEUE = norm(wave(np.sin, 0.3, 5))
BANK, OWN = norm(wave(np.cos, 0.2, 6)), np.array([0, 2, 4, 5])
PROTOTYPES = norm(wave(np.cos, 0.7, 3))
# The own row, then all others, as if they had been drawn.
REMEMBERED = np.stack([np.concatenate([BANK[i : i + 1], np.delete(BANK, i, 0)]) for i in OWN])


def f32(x):
    return tf.constant(x, tf.float32)


def nce(temperature):
    given = (f32(A), f32(REMEMBERED))
    normalizer = pl.nce_normalizer(*given, 6, temperature)
    return pl.instance_nce(*given, normalizer, 6, temperature), normalizer


CHECKED = {
    "nt_xent T .1": (lambda: nt_xent(f32(A), f32(B), 0.1, symmetric=True), 4.823219),
    "nt_xent T .1, one side": (lambda: nt_xent(f32(A), f32(B), 0.1), 4.859254),
    "nt_xent T .5": (lambda: nt_xent(f32(A), f32(B), 0.5, symmetric=True), 1.629041),
    "nt_xent T .5, one side": (lambda: nt_xent(f32(A), f32(B), 0.5), 1.633011),
    "dcl T .1": (lambda: pl.dcl(f32(A), f32(B), 0.1), 4.815069),
    "dcl T .5": (lambda: pl.dcl(f32(A), f32(B), 0.5), 1.409642),
    "moco T .07": (lambda: info_nce(f32(A), f32(B), f32(QUEUE), 0.07)[0], 5.420084),
    "moco T .1": (lambda: info_nce(f32(A), f32(B), f32(QUEUE), 0.1)[0], 3.932445),
    "moco T .2": (lambda: info_nce(f32(A), f32(B), f32(QUEUE), 0.2)[0], 2.375051),
    "moco T .07, b first": (lambda: info_nce(f32(B), f32(A), f32(QUEUE), 0.07)[0], 0.777494),
    "moco T .1, b first": (lambda: info_nce(f32(B), f32(A), f32(QUEUE), 0.1)[0], 0.707716),
    "moco T .2, b first": (lambda: info_nce(f32(B), f32(A), f32(QUEUE), 0.2)[0], 0.815255),
    "nce T .07": (lambda: nce(0.07)[0], 8.426011),
    "Z, T .07": (lambda: nce(0.07)[1], 974174.23),
    "nce T .1": (lambda: nce(0.1)[0], 6.291521),
    "Z, T .1": (lambda: nce(0.1)[1], 17954.6933),
    "full softmax": (lambda: pl.instance_softmax(f32(A), f32(BANK), OWN, 0.1), 5.445283),
    "byol": (lambda: pl.byol_loss(f32(X), f32(Y)), 1.034903),
    "simsiam": (lambda: pl.simsiam_loss(f32(X), f32(Y), f32(X), f32(Y)), -0.482549),
    "barlow, total": (lambda: pl.barlow_twins_loss(f32(X), f32(Y))[0], 3.505775),
    "barlow, diagonal": (lambda: pl.barlow_twins_loss(f32(X), f32(Y))[1], 3.477540),
    "barlow, beside it": (lambda: pl.barlow_twins_loss(f32(X), f32(Y))[2], 5.536344),
    "swav": (lambda: swav_loss.swav_loss([f32(X), f32(Y)], f32(PROTOTYPES)), 2.515770),
    "vicreg, total": (lambda: pl.vicreg_loss(f32(X), f32(Y))[0], 21.111937),
    "vicreg, invariance": (lambda: pl.vicreg_loss(f32(X), f32(Y))[1], 0.518740),
    "vicreg, variance": (lambda: pl.vicreg_loss(f32(X), f32(Y))[2], 0.274297),
    "vicreg, covariance": (lambda: pl.vicreg_loss(f32(X), f32(Y))[3], 1.286004),
}


@pytest.mark.parametrize("name", CHECKED)
def test_the_number_is_the_other_implementation_s(name):
    """To 1e-5, the numbers having six decimals."""
    function, expected = CHECKED[name]
    ours = function()
    assert ours.dtype == tf.float32
    assert ours.shape == ()
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=5e-7)


def test_assignments_are_the_other_implementation_s_and_use_all_prototypes_alike(rng):
    code = swav_loss.swav_codes(f32(A @ PROTOTYPES.T))[0]
    np.testing.assert_allclose(code, [0.344057, 0.000001, 0.655942], atol=1e-6)
    # All images are nearest to one prototype.
    scores = f32(rng.uniform(-0.2, 0.2, (60, 6)) + [0.5, 0, 0, 0, 0, 0])
    found = swav_loss.swav_codes(scores, steps=30).numpy()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 10, rtol=0.02)


def test_views_that_only_tell_are_assigned_to_nothing():
    both = swav_loss.swav_loss([f32(A), f32(B)], f32(PROTOTYPES))
    with_a = swav_loss.swav_loss([f32(A), f32(B)], f32(PROTOTYPES), others=[f32(A)])
    scores = [f32(x @ PROTOTYPES.T) for x in (A, B)]
    own, other = (
        tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(swav_loss.swav_codes(s), scores[0] / 0.1)
        )
        for s in scores
    )
    np.testing.assert_allclose(with_a, (2 * both + own + other) / 4, rtol=1e-5)


# The same numbers as loops written from the papers


def unit_rows(rng, count, dim):
    return norm(rng.standard_normal((count, dim))).astype("float32")


def naive_dcl(a, b, temperature, symmetric, sigma):
    size, terms = len(a), []
    shares = [math.exp(float(x @ y) / sigma) if sigma else 1 for x, y in zip(a, b, strict=True)]
    for anchors, others in [(a, b), (b, a)][: 2 if symmetric else 1]:
        for i in range(size):
            weight = 2 - size * shares[i] / sum(shares) if sigma else 1
            pull = weight * float(anchors[i] @ others[i]) / temperature
            push = sum(
                math.exp(float(anchors[i] @ view[k]) / temperature)
                for view in (anchors, others)
                for k in range(size)
                if k != i
            )
            terms.append(math.log(push) - pull)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("sigma", [None, 0.5, 0.2])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("size", "temperature"), [(2, 0.1), (7, 0.5)])
def test_dcl_follows_the_paper(rng, size, temperature, symmetric, sigma):
    a, b = unit_rows(rng, size, 5), unit_rows(rng, size, 5)
    ours = pl.dcl(a, b, temperature, symmetric=symmetric, sigma=sigma)
    expected = naive_dcl(a.astype("float64"), b.astype("float64"), temperature, symmetric, sigma)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_the_weights_of_dclw_have_no_gradient(rng):
    a, b = tf.constant(unit_rows(rng, 6, 4)), tf.constant(unit_rows(rng, 6, 4))
    cosines = tf.reduce_sum(a * b, -1)
    weights = 2 - 6 * tf.nn.softmax(cosines / 0.5)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(a)
        ours = pl.dcl(a, b, 0.2, sigma=0.5)
        pull = tf.reduce_mean((weights - 1) * tf.reduce_sum(a * b, -1)) / 0.2
        other = pl.dcl(a, b, 0.2) - pull
    np.testing.assert_allclose(ours, other, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(ours, a), tape.gradient(other, a), atol=1e-5)


def naive_nce(rows, bank, index, drawn, normalizer, temperature):
    count, terms = len(bank), []
    noise = drawn.shape[1] / count

    def probability(v, j):
        return math.exp(float(v @ bank[j]) / temperature) / normalizer

    for v, own, others in zip(rows, index, drawn, strict=True):
        term = math.log(probability(v, own) / (probability(v, own) + noise))
        term += sum(math.log(noise / (probability(v, j) + noise)) for j in others)
        terms.append(-term)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nce_follows_the_paper(rng, temperature):
    rows, bank = unit_rows(rng, 5, 4), unit_rows(rng, 30, 4)
    index, drawn = np.arange(5), rng.integers(0, 30, (5, 12))
    remembered = bank[np.concatenate([index[:, None], drawn], 1)]
    ours = pl.instance_nce(rows, remembered, 77.0, 30, temperature)
    expected = naive_nce(rows, bank, index, drawn, 77.0, temperature)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_a_good_estimate_of_z_makes_nce_point_where_the_softmax_does(rng):
    """With every image among the negatives, both are least for the same row."""
    bank = unit_rows(rng, 20, 4)
    remembered = np.concatenate([bank[:1], bank])[None]
    candidates = [bank[:1], bank[1:2], -bank[:1]]
    by_nce = [pl.instance_nce(v, remembered, 60.0, 20, 0.3) for v in candidates]
    by_softmax = [pl.instance_softmax(v, bank, np.array([0]), 0.3) for v in candidates]
    assert np.argsort(by_nce).tolist() == np.argsort(by_softmax).tolist()
    assert np.argmin(by_nce) == 0


def naive_vicreg(a, b):
    count, dims = a.shape
    invariance = sum(float((x - y) @ (x - y)) for x, y in zip(a, b, strict=True)) / a.size
    variance = covariance = 0.0
    for view in (a, b):
        for j in range(dims):
            variance += max(0.0, 1 - math.sqrt(view[:, j].var(ddof=1) + 1e-4)) / dims / 2
            for k in range(dims):
                if k != j:
                    covariance += np.cov(view[:, j], view[:, k])[0, 1] ** 2 / dims
    return 25 * invariance + 25 * variance + covariance, invariance, variance, covariance


def test_vicreg_follows_the_paper(rng):
    a, b = 0.8 * rng.standard_normal((2, 9, 4)) + 3
    ours = pl.vicreg_loss(f32(a), f32(b))
    np.testing.assert_allclose(ours, naive_vicreg(a, b), rtol=1e-4)


def naive_barlow(a, b, weight):
    diagonal = beside = 0.0
    a, b = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (a, b))
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            c = float(a[:, i] @ b[:, j]) / len(a)
            diagonal += (1 - c) ** 2 if i == j else 0
            beside += c**2 if i != j else 0
    return diagonal + weight * beside, diagonal, beside


def test_barlow_twins_follows_the_paper(rng):
    a, b = 2 * rng.standard_normal((2, 9, 4)) - 5
    ours = pl.barlow_twins_loss(f32(a), f32(b), 0.02)
    np.testing.assert_allclose(ours, naive_barlow(a, b, 0.02), rtol=1e-4)


# Closed forms


def test_equal_vectors(rng):
    same = tf.ones([8, 4]) / 2
    np.testing.assert_allclose(pl.dcl(same, same, 0.1), math.log(14), rtol=1e-6)
    np.testing.assert_allclose(pl.dcl(same, same, 0.1, sigma=0.5), math.log(14), rtol=1e-6)
    bank = tf.ones([20, 4]) / 2
    loss = pl.instance_softmax(same, bank, tf.range(8), 0.1)
    np.testing.assert_allclose(loss, math.log(20), rtol=1e-6)
    np.testing.assert_allclose(pl.byol_loss(same, 3 * same), 0, atol=1e-6)
    np.testing.assert_allclose(pl.byol_loss(same, -same), 4, rtol=1e-6)
    np.testing.assert_allclose(pl.simsiam_loss(same, same, same, same), -1, rtol=1e-6)
    # Nothing varies: the variance term is whole, the others are none.
    total, invariance, variance, covariance = pl.vicreg_loss(same, same)
    assert invariance == covariance == 0
    np.testing.assert_allclose([variance, total], [0.99, 25 * 0.99], rtol=1e-6)
    np.testing.assert_allclose(pl.barlow_twins_loss(same, same)[1], 4, rtol=1e-6)
    np.testing.assert_allclose(pl.spread(same), 0, atol=1e-6)


def test_opposite_pairs_at_a_low_temperature_do_not_overflow():
    a = tf.constant([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(pl.dcl(a, a, 1e-3), -2000 + math.log(2), rtol=1e-6)
    np.testing.assert_allclose(pl.dcl(a, -a, 1e-3), 2000, rtol=1e-6)


def test_perfect_views_of_barlow_twins_and_vicreg_cost_nothing():
    """Dimensions that are independent, and of variance 1."""
    views = f32(np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * math.sqrt(3) / 2)
    np.testing.assert_allclose(pl.barlow_twins_loss(views, views), 0, atol=1e-8)
    np.testing.assert_allclose(pl.vicreg_loss(views, views), 0, atol=1e-6)


def test_the_losses_of_cosines_forget_the_lengths(rng):
    p, z = rng.standard_normal((2, 6, 4)).astype("float32")
    np.testing.assert_allclose(pl.byol_loss(7 * p, z / 9), pl.byol_loss(p, z), rtol=1e-5)
    cosine = np.mean(np.sum(norm(p) * norm(z), -1))
    np.testing.assert_allclose(pl.byol_loss(p, z), 2 - 2 * cosine, rtol=1e-5)
    np.testing.assert_allclose(pl.simsiam_loss(p, p, z, z), -cosine, rtol=1e-5)


def test_spread_is_1_on_the_sphere_and_near_0_in_collapse(rng):
    rows = rng.standard_normal((2000, 16)).astype("float32")
    assert abs(float(pl.spread(rows)) - 1) < 0.02
    assert float(pl.spread(5 + 0.01 * rows)) < 0.02
    assert float(pl.spread(rows * (np.arange(16) == 0))) == pytest.approx(0.25, abs=0.01)


# Gradients


def gradients(function, *inputs):
    inputs = [tf.constant(x, tf.float32) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = function(*inputs)
    return tape.gradient(loss, inputs)


def test_targets_banks_and_projections_get_no_gradient(rng):
    p, z, q, y = rng.standard_normal((4, 6, 4)).astype("float32")
    assert gradients(pl.byol_loss, p, z)[1] is None
    assert [g is None for g in gradients(pl.simsiam_loss, p, z, q, y)] == [False, True] * 2
    rows, bank = unit_rows(rng, 6, 4), unit_rows(rng, 9, 4)
    index = tf.range(6)
    assert gradients(lambda v, m: pl.instance_softmax(v, m, index), rows, bank)[1] is None
    table = bank[rng.integers(0, 9, (6, 4))]
    assert gradients(lambda v, m: pl.instance_nce(v, m, 9.0, 9), rows, table)[1] is None
    assert gradients(lambda v, m: pl.nce_normalizer(v, m, 9), rows, table) == [None, None]
    assert gradients(pl.spread, p) == [None]


@pytest.mark.parametrize("name", ["byol", "barlow", "vicreg"])
def test_gradients_of_collapsed_rows_are_finite(name):
    """All rows alike, and all zero."""
    for rows in (np.ones((6, 4)), np.zeros((6, 4))):
        for gradient in gradients(CASES[name], rows, rows):
            assert gradient is None or np.isfinite(gradient).all()


# What is refused


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan])
def test_a_temperature_that_is_not_positive(temperature):
    a, index = f32(A), tf.range(4)
    for call in (
        lambda: nt_xent(a, a, temperature),
        lambda: pl.dcl(a, a, temperature),
        lambda: info_nce(a, a, a, temperature),
        lambda: pl.instance_softmax(a, a, index, temperature),
        lambda: pl.instance_nce(a, f32(REMEMBERED), 1.0, 6, temperature),
        lambda: pl.nce_normalizer(a, f32(REMEMBERED), 6, temperature),
    ):
        with pytest.raises(ValueError, match="`temperature` should be greater than 0. Received"):
            call()
    with pytest.raises(ValueError, match="`sigma` should be greater than 0. Received: sigma="):
        pl.dcl(a, a, 0.1, sigma=temperature)


def test_rows_that_are_not_of_length_1():
    a, x, index = f32(A), f32(X), tf.range(4)
    for call, name in (
        (lambda: nt_xent(a, x, 0.1), "b"),
        (lambda: pl.dcl(x, a, 0.1), "a"),
        (lambda: info_nce(x, a, a, 0.1), "queries"),
        (lambda: info_nce(a, a, x, 0.1), "queue"),
        (lambda: pl.instance_softmax(x, a, index), "rows"),
        (lambda: pl.instance_nce(x, f32(REMEMBERED), 1.0, 6), "rows"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` should have rows of length 1. Received"):
            call()


@pytest.mark.parametrize("name", ["dcl", "barlow", "vicreg"])
def test_views_without_a_second_row_or_of_other_shapes(name):
    a = f32(A)
    for given in ((a[:1], a[:1]), (a, a[:3]), (a[0], a[0])):
        with pytest.raises(ValueError, match=r"should have the same shape \[B,P\] with B of 2"):
            CASES[name](*given)


# Precision and compilation

CASES = {
    "dcl": lambda x, y: pl.dcl(x, y, 0.1),
    "dclw": lambda x, y: pl.dcl(x, y, 0.1, sigma=0.5, symmetric=False),
    "info_nce": lambda x, y: info_nce(x, y, y, 0.1)[0],
    "softmax": lambda x, y: pl.instance_softmax(x, y, tf.range(x.shape[0]), 0.1),
    "nce": lambda x, y: pl.instance_nce(x, tf.stack([y, x], 1), 99.0, 40, 0.1),
    "normalizer": lambda x, y: pl.nce_normalizer(x, tf.stack([y, x], 1), 40, 0.1),
    "byol": pl.byol_loss,
    "simsiam": lambda x, y: pl.simsiam_loss(x, y, y, x),
    "barlow": lambda x, y: tf.stack(pl.barlow_twins_loss(x, y)),
    "vicreg": lambda x, y: tf.stack(pl.vicreg_loss(x, y)),
    "swav": lambda x, y: swav_loss.swav_loss([x, y], x[:5]),
    "spread": lambda x, y: pl.spread(x + y),
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
    if name == "spread":  # the sum is a bfloat16 op
        y = tf.zeros_like(y)
    ours = CASES[name](x, y)
    assert ours.dtype == tf.float32
    exact = CASES[name](tf.cast(x, tf.float32), tf.cast(y, tf.float32))
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-6)
