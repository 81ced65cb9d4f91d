"""Neighbour mining: against a plain search, with duplicates, and what it keeps on disk."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scan_tf.config import NeighborsConfig
from scan_tf.errors import ConfigError, DataError
from scan_tf.features import neighbors

ANNOY, EXACT = NeighborsConfig(index="annoy"), NeighborsConfig(index="exact")


def clustered(count: int, columns: int, seed: int = 0) -> np.ndarray:
    """Unit rows float32 [count, columns] around 20 centres, as trained features are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, columns))
    rows = centres[rng.integers(0, 20, count)] + 0.7 * rng.standard_normal((count, columns))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def check_form(found: neighbors.Neighbors, count: int, k: int) -> None:
    assert found.indices.shape == found.similarity.shape == (count, k + 1)
    assert (found.indices.dtype, found.similarity.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(count))
    np.testing.assert_array_equal(found.similarity[:, 0], 1.0)
    assert (np.diff(found.similarity, axis=1) <= 0).all()
    assert all(len(set(row)) == k + 1 for row in found.indices.tolist())


def test_exact_mining():
    features = clustered(400, 16)
    found = neighbors.mine(features, EXACT, k=6, seed=0)
    check_form(found, 400, 6)
    product = features @ features.T
    np.fill_diagonal(product, 2.0)
    np.testing.assert_array_equal(found.indices, np.argsort(-product, axis=1)[:, :7])
    assert (found.index, found.recall, found.reason) == ("exact", 1.0, "neighbors.index = exact")
    assert found.seconds > 0


@pytest.mark.slow
def test_annoy_finds_nearly_all_with_100_trees():
    features = clustered(10_000, 32)
    found = neighbors.mine(features, ANNOY, k=20, seed=0)
    check_form(found, 10_000, 20)
    truth = neighbors.mine(features, EXACT, k=20, seed=0)
    shared = [
        len(set(a) & set(b))
        for a, b in zip(found.indices[:, 1:].tolist(), truth.indices[:, 1:].tolist(), strict=True)
    ]
    recall = np.mean(shared) / 20
    assert recall > 0.98
    assert found.recall == pytest.approx(recall, abs=0.005)


def test_hnsw_when_it_is_installed(monkeypatch):
    pytest.importorskip("hnswlib")
    monkeypatch.setattr(neighbors, "_choose", lambda *_: ("hnsw", "asked for"))
    features = clustered(3000, 32)
    found = neighbors.mine(features, NeighborsConfig(), k=20, seed=0)
    check_form(found, 3000, 20)
    assert (found.index, found.reason) == ("hnsw", "asked for")
    assert 0.95 < found.recall <= 1


def test_recall_reports_a_poor_index():
    features = clustered(3000, 32)
    config = dataclasses.replace(ANNOY, n_trees=1, search_k=30, recall_sample=3000)
    found = neighbors.mine(features, config, k=10, seed=0)
    check_form(found, 3000, 10)
    truth = neighbors.mine(features, EXACT, k=10, seed=0)
    same = (found.indices[:, 1:, None] == truth.indices[:, None, 1:]).any(axis=2).mean()
    assert same < 0.5
    assert found.recall == pytest.approx(same, abs=1e-4)


@pytest.mark.parametrize("config", [ANNOY, EXACT])
def test_the_image_itself_comes_first_among_more_duplicates_than_neighbours(config):
    features = np.repeat(clustered(5, 8), 30, axis=0)
    found = neighbors.mine(features, config, k=4, seed=0)
    check_form(found, 150, 4)
    assert (found.indices // 30 == found.indices[:, :1] // 30).all()
    assert found.recall == 1.0


@pytest.mark.parametrize("config", [ANNOY, EXACT])
def test_every_image_a_neighbour(config):
    check_form(neighbors.mine(clustered(6, 4), config, k=5, seed=0), 6, 5)


def test_annoy_repeats_itself():
    features = clustered(2000, 16)
    config = dataclasses.replace(ANNOY, n_trees=5)
    one, two = (neighbors.mine(features, config, k=10, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.indices, two.indices)
    other = neighbors.mine(features, config, k=10, seed=4)
    assert (one.indices != other.indices).any()


def test_rows_need_no_exact_norm():
    features = clustered(200, 8)
    scale = np.random.default_rng(0).uniform(0.5, 2, (200, 1)).astype(np.float32)
    one = neighbors.mine(features, EXACT, k=5, seed=0)
    two = neighbors.mine(features * scale, EXACT, k=5, seed=0)
    np.testing.assert_array_equal(one.indices, two.indices)


def test_auto_searches_exactly_while_that_is_quick(monkeypatch):
    features = clustered(300, 8)
    found = neighbors.mine(features, NeighborsConfig(), k=3, seed=0)
    assert found.index == "exact"
    assert found.reason == "auto: 300 images; the exact search is quick up to 250,000"
    monkeypatch.setattr(neighbors, "EXACT_UP_TO", 299)
    found = neighbors.mine(features, NeighborsConfig(), k=3, seed=0)
    assert found.index == "annoy"
    assert "300 images" in found.reason


def test_too_few_images():
    with pytest.raises(ConfigError) as caught:
        neighbors.mine(clustered(12, 4), EXACT, k=20, seed=0)
    assert str(caught.value) == "k = 20 needs at least 21 images, got 12. Set it to 11 or less."
    with pytest.raises(ConfigError, match=r"^k = 5 needs .* got 1. Add images."):
        neighbors.mine(clustered(1, 4), EXACT, k=5, seed=0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_rows_without_direction_are_refused(value):
    features = clustered(50, 4)
    features[[7, 9]] = value
    with pytest.raises(DataError, match=r"2 of 50 rows are zero or not finite, .* row 7"):
        neighbors.mine(features, EXACT, k=3, seed=0)


def test_features_of_another_rank_are_refused():
    with pytest.raises(DataError, match=r"expected \[N, P\], got the shape \[5, 2, 2\]"):
        neighbors.mine(np.ones((5, 2, 2), np.float32), EXACT, k=1, seed=0)


def test_restrict_drops_renumbers_and_cycles():
    indices = np.array([[0, 1, 3, 4], [1, 0, 2, 3], [2, 1, 4, 3], [3, 4, 0, 1], [4, 2, 1, 3]])
    keep = np.array([True, False, True, True, False])
    expected = [[0, 2, 0, 2], [1, 2, 1, 2], [2, 0, 2, 0]]
    found = neighbors.restrict(indices.astype(np.int32), keep)
    assert found.tolist() == expected
    assert found.dtype == np.int32
    with pytest.raises(DataError, match=r"expected keep as bool \[5\], got int64 \(3,\)"):
        neighbors.restrict(indices, np.flatnonzero(keep))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 30), st.floats(0.05, 1))
def test_restrict_by_a_plain_loop(seed, count, share):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, count))
    indices = np.array(
        [[i, *rng.permutation(np.delete(np.arange(count), i))[:k]] for i in range(count)], np.int32
    )
    keep = rng.random(count) < share
    number = {image: row for row, image in enumerate(np.flatnonzero(keep))}
    expected = []
    for image in number:
        left = [number[n] for n in indices[image] if keep[n]]
        expected.append([left[j % len(left)] for j in range(k + 1)])
    assert neighbors.restrict(indices, keep).tolist() == expected


def test_a_file_comes_back_as_it_was(tmp_path):
    found = neighbors.mine(clustered(60, 4), ANNOY, k=3, seed=0)
    path = tmp_path / "neighbors" / "train.npz"
    neighbors.save(path, found)
    back = neighbors.load(path)
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(found, field.name))
        assert type(getattr(back, field.name)) is type(getattr(found, field.name))
    neighbors.save(path, dataclasses.replace(found, recall=None))
    assert neighbors.load(path).recall is None
    assert [p.name for p in path.parent.iterdir()] == ["train.npz"]


def changed_files():
    good = neighbors.Neighbors(
        np.array([[0, 1], [1, 0]], np.int32), np.ones((2, 2), np.float32), "exact", "", 1.0, 0.1
    )
    far = np.array([[0, 2], [1, 0]], np.int32)
    return {
        "dtype": dataclasses.replace(good, indices=good.indices.astype(np.int64)),
        "double": dataclasses.replace(good, similarity=good.similarity.astype(np.float64)),
        "shape": dataclasses.replace(good, similarity=good.similarity[:, :1]),
        "rank": dataclasses.replace(good, indices=good.indices[0], similarity=good.similarity[0]),
        "range": dataclasses.replace(good, indices=far),
        "negative": dataclasses.replace(good, indices=-far),
        "self": dataclasses.replace(good, indices=good.indices[:, ::-1]),
        "empty": dataclasses.replace(
            good, indices=good.indices[:0], similarity=good.similarity[:0]
        ),
        "scalar": dataclasses.replace(good, indices=good.indices[0, 0]),
    }


@pytest.mark.parametrize("name", changed_files())
def test_a_file_of_another_form_is_refused(tmp_path, name):
    path = tmp_path / "bad.npz"
    neighbors.save(path, changed_files()[name])
    with pytest.raises(DataError, match=r"bad.npz: .*expected"):
        neighbors.load(path)


def test_a_file_that_is_no_neighbours_file_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    with pytest.raises(DataError, match="bad.npz: not a readable neighbours file"):
        neighbors.load(path)
    neighbors.save(path, neighbors.mine(clustered(60, 4), EXACT, k=3, seed=0))
    whole = path.read_bytes()
    harmed = bytearray(whole)
    harmed[200] ^= 255
    objects = np.array([{"a": 1}], dtype=object)
    for content in (whole[:-50], bytes(harmed), b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a readable neighbours file"):
            neighbors.load(path)
    for writer in (np.save, np.savez):
        with path.open("wb") as file:
            writer(file, objects)
        with pytest.raises(DataError, match="not a readable neighbours file"):
            neighbors.load(path)
