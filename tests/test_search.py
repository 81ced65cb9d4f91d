"""The exact search: against float64, with ties, in every way that a block can be searched."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from scan_tf.errors import DataError
from scan_tf.features import search


@pytest.fixture(params=["bfloat16", "float32", "gpu"])
def way(request, monkeypatch):
    """Each of the ways to search, also where this machine would take another."""
    monkeypatch.setattr(search, "cpu_has_bfloat16", lambda: request.param == "bfloat16")
    if request.param == "gpu":
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["pretended"])
    return request.param


def rows(rng, count, columns=16):
    """Unit rows around a few centres, so that the nearest of a row are near."""
    values = rng.standard_normal((9, columns))[rng.integers(0, 9, count)]
    values = values + 0.5 * rng.standard_normal((count, columns))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def check(bank, queries, k):
    """`exact` gives each query k rows, and no row that was left out is better than they are."""
    indices, products = search.exact(bank, queries, k)
    assert indices.shape == products.shape == (len(queries), k)
    assert (indices.dtype, products.dtype) == (np.int32, np.float32)
    truth = queries.astype(np.float64) @ bank.T.astype(np.float64)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(bank, axis=1).max()
    rounding = bank.shape[1] * 2.0**-24 * lengths
    assert (np.abs(products - np.take_along_axis(truth, indices, 1)) <= rounding).all()
    assert (np.diff(products, axis=1) <= 0).all()
    assert all(len(set(row)) == k for row in indices.tolist())
    kth = -np.sort(-truth, axis=1)[:, k - 1 : k]
    assert (products >= kth - 2 * rounding).all()


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("count", [40, 701, 4000])
def test_it_finds_what_float64_finds(way, rng, count, k):
    check(rows(rng, count), rows(rng, 300), k)


def test_rows_of_any_length_and_direction(way, rng):
    # The best products of half of the queries are negative.
    bank = 3.0 * rows(rng, 900) * rng.uniform(0.1, 2, (900, 1)).astype(np.float32)
    bank[:, 0] = np.abs(bank[:, 0])
    queries = np.zeros((60, 16), np.float32)
    queries[:30, 0], queries[30:, 0] = -5.0, 0.01
    queries[::3, 1:] = rng.standard_normal((20, 15))
    check(bank, queries, 7)
    check(bank, np.zeros((2, 16), np.float32), 7)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 400), st.integers(1, 30))
def test_any_size(seed, count, queries):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, count + 1))
    check(rows(rng, count, 4), rows(rng, queries, 4), k)


@pytest.mark.parametrize("distinct", [1, 3, 200])
def test_of_equal_products_the_lower_row_comes_first(way, rng, distinct):
    # Whole numbers: every product is exact.
    values = rng.integers(-3, 4, (distinct, 8))
    bank = values[rng.integers(0, distinct, 2000)].astype(np.float32)
    queries = bank[:50]
    indices, products = search.exact(bank, queries, 12)
    truth = queries @ bank.T
    np.testing.assert_array_equal(indices, np.argsort(-truth, axis=1, kind="stable")[:, :12])
    np.testing.assert_array_equal(products, np.take_along_axis(truth, indices, 1))


def test_the_short_cut_is_taken_and_looks_at_few_rows(way, rng, monkeypatch):
    if way == "gpu":
        pytest.skip("a GPU has no short cut")
    bank = rows(rng, 4000, 32)
    expected = search._plain(tf.constant(bank), 5, bank[:100])
    monkeypatch.setattr(search, "_plain", lambda *_: pytest.fail("searched without it"))
    np.testing.assert_array_equal(search.exact(bank, bank[:100], 5)[0], expected[0])


def test_products_in_bfloat16_alone_would_be_wrong(rng):
    """The second look matters: the same search without it misses neighbours."""
    bank = rows(rng, 4000, 32)
    cheap = tf.cast(bank, tf.bfloat16)
    best = tf.math.top_k(tf.matmul(cheap, cheap, transpose_b=True), 20).indices.numpy()
    missed = [set(a) != set(b) for a, b in zip(best, search.exact(bank, bank, 20)[0], strict=True)]
    assert np.mean(missed) > 0.1


def test_few_products_exist_at_a_time(way, rng, monkeypatch):
    bank = rows(rng, 3000)
    expected = search.exact(bank, bank[:90], 4)
    monkeypatch.setattr(search, "num_cpus", lambda: 1)
    monkeypatch.setattr(search, "_MIN_BLOCK", 1)
    monkeypatch.setattr(search, "_BLOCK_VALUES", 7 * 3000)
    sizes = []
    for name in ("_plain", "_Grouped"):
        kind = getattr(search, name)
        if name == "_plain":

            def counted(bank, k, queries, plain=kind):
                sizes.append(len(queries))
                return plain(bank, k, queries)
        else:

            class counted(kind):
                def __call__(self, queries):
                    sizes.append(len(queries))
                    return super().__call__(queries)

        monkeypatch.setattr(search, name, counted)
    np.testing.assert_array_equal(search.exact(bank, bank[:90], 4)[0], expected[0])
    assert sizes == [7] * 12 + [6]


def test_gpus_multiply_in_full_float32_meanwhile(rng, monkeypatch):
    state = tf.config.experimental.tensor_float_32_execution_enabled
    seen = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["pretended"])
    plain = search._plain

    def watched(*arguments):
        seen.append(state())
        return plain(*arguments)

    monkeypatch.setattr(search, "_plain", watched)
    before = state()
    search.exact(rows(rng, 50), rows(rng, 3), 2)
    assert seen == [False]
    assert state() == before


def test_no_queries(way, rng):
    indices, products = search.exact(rows(rng, 50), np.zeros((0, 16), np.float32), 3)
    assert indices.shape == products.shape == (0, 3)


def test_more_than_the_bank_is_refused(rng):
    with pytest.raises(DataError, match="k = 701 is larger than the bank of 700"):
        search.exact(rows(rng, 700), rows(rng, 5), 701)
