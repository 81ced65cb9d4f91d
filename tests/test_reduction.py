from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA

from scan_tf.errors import DataError
from scan_tf.models import reduction


def features(rng, count=300, size=20):
    scales = np.linspace(3, 0.1, size)
    return (rng.standard_normal((count, size)) * scales + 5).astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [7, 4096])
def test_it_is_the_pca_of_scikit_learn(rng, monkeypatch, block):
    monkeypatch.setattr(reduction, "_BLOCK", block)
    x = features(rng)
    fitted, theirs = reduction.fit(x, 8), PCA(8).fit(x.astype(np.float64))
    expected = unit(theirs.transform(x))
    found = fitted.rows(x)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)
    assert fitted.explained == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-5)
    assert (found.dtype, fitted.axes.dtype) == (np.float32, np.float32)


def test_rows_have_unit_length_also_in_a_graph(rng):
    x = features(rng)
    fitted = reduction.fit(x, 5)
    np.testing.assert_allclose(np.linalg.norm(fitted.rows(x), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(tf.function(fitted)(tf.constant(x)), fitted.rows(x), atol=1e-6)
    np.testing.assert_array_equal(fitted(fitted.mean[None]), np.zeros((1, 5)))


def test_the_axes_are_always_the_same(rng):
    x = features(rng)
    first, second = reduction.fit(x, 5), reduction.fit(x[::-1], 5)
    np.testing.assert_allclose(first.axes, second.axes, atol=1e-4)
    assert (first.axes.max(0) > -first.axes.min(0)).all()


@pytest.mark.parametrize(("count", "wanted", "kept"), [(300, 50, 20), (10, 50, 9), (2, 4, 1)])
def test_no_more_axes_than_directions(rng, count, wanted, kept):
    fitted = reduction.fit(features(rng, count), wanted)
    assert fitted.axes.shape == (20, kept)
    assert fitted.explained == pytest.approx(1, abs=1e-6)


def test_directions_without_variance_are_left_out(rng):
    x = np.zeros((100, 20), np.float32)
    x[:, [3, 7]] = rng.standard_normal((100, 2))
    assert reduction.fit(x, 10).axes.shape == (20, 2)


@pytest.mark.parametrize("count", [1, 5])
def test_features_that_are_all_the_same(count):
    with pytest.raises(DataError, match=f"all {count} rows are the same"):
        reduction.fit(np.ones((count, 4), np.float32), 2)


def test_half_precision_is_read_as_it_is(rng):
    x = features(rng)
    half = reduction.fit(x.astype(np.float16), 5)
    np.testing.assert_allclose(half.axes, reduction.fit(x, 5).axes, atol=1e-2)
