"""The approximate indices: what they find, and what Annoy's keeps on disk."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading

import numpy as np
import pytest

from scan_tf.config import NeighborsConfig
from scan_tf.errors import ConfigError, DataError
from scan_tf.features import approximate
from scan_tf.features.search import exact

CONFIG = NeighborsConfig(n_trees=3)


def clustered(count, columns, seed=0):
    """Unit rows float32 [count, columns] around 20 centres, as trained features are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, columns))
    rows = centres[rng.integers(0, 20, count)] + 0.7 * rng.standard_normal((count, columns))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recall(found, features, k):
    truth, _ = exact(features, features, k)
    return (found[:, :, None] == truth[:, None, :]).any(axis=2).mean()


def test_annoys_index_is_kept_and_used_again(tmp_path, monkeypatch):
    features, path = clustered(500, 8), tmp_path / "new" / "index.ann"
    builds = []
    build = approximate._build
    monkeypatch.setattr(approximate, "_build", lambda *args: (builds.append(1), build(*args)))

    def search(features=features, config=CONFIG, seed=0):
        builds.clear()
        index = approximate.annoy_index(features, config, seed=seed, path=path)
        return approximate.annoy(index, features, 6), bool(builds)

    first, built = search()
    assert built
    stamp = json.loads((tmp_path / "new" / "index.ann.json").read_text())
    assert (stamp["rows"], stamp["columns"], stamp["n_trees"], stamp["seed"]) == (500, 8, 3, 0)
    found, built = search()
    assert not built
    np.testing.assert_array_equal(found, first)
    assert search(seed=1)[1]
    assert search(config=dataclasses.replace(CONFIG, n_trees=4))[1]
    changed = features.copy()
    changed[7] = changed[8]
    assert search(features=changed)[1]
    assert not search(features=changed)[1]
    path.write_bytes(path.read_bytes()[:-100])
    assert search(features=changed)[1]
    (tmp_path / "new" / "index.ann.json").write_text("{")
    assert search(features=changed)[1]
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.ann", "index.ann.json"]


def test_annoy_finds_the_same_with_any_number_of_threads():
    features = clustered(2000, 16)
    index = approximate.annoy_index(features, CONFIG, seed=0)
    one = approximate.annoy(index, features, 9, threads=1)
    np.testing.assert_array_equal(approximate.annoy(index, features, 9, threads=3), one)
    assert (one >= 0).all()


def test_annoy_searches_on_all_cores_by_default(monkeypatch):
    monkeypatch.setattr(approximate.machine, "num_cpus", lambda: 3)
    features = clustered(3 * approximate._CHUNK, 4)
    # Each waits for the other two; with fewer threads they would wait for ever.
    together = threading.Barrier(3, timeout=30)

    class Index:
        def get_nns_by_item(self, row, k, search_k):
            if row % approximate._CHUNK == 0:
                together.wait()
            return list(range(k))

    found = approximate.annoy(Index(), features, 2, search_k=9)
    assert (found == [0, 1]).all()


def test_annoy_looks_at_twice_as_many_nodes_as_by_its_own_default():
    features = clustered(5000, 32)
    index = approximate.annoy_index(features, CONFIG, seed=0)
    own, ours, twice = (
        approximate.annoy(index, features, 10, search_k=nodes) for nodes in (3 * 10, -1, 2 * 3 * 10)
    )
    np.testing.assert_array_equal(ours, twice)
    assert recall(ours, features, 10) > recall(own, features, 10) + 0.01


def test_annoy_finds_the_same_from_memory_and_from_a_file(tmp_path):
    features = clustered(2000, 16)
    paths = (None, tmp_path / "index.ann", tmp_path / "index.ann")
    one, made, kept = (
        approximate.annoy(approximate.annoy_index(features, CONFIG, seed=0, path=path), features, 9)
        for path in paths
    )
    np.testing.assert_array_equal(made, one)
    np.testing.assert_array_equal(kept, one)


def test_annoy_with_too_few_nodes_to_look_at_is_filled_up():
    features = clustered(1000, 8)
    index = approximate.annoy_index(features, NeighborsConfig(n_trees=1), seed=0)
    found = approximate.annoy(index, features, 300, search_k=1)
    assert all(len(set(row)) == 300 for row in found.tolist())


def test_hnsw_finds_nearly_all():
    pytest.importorskip("hnswlib")
    features = clustered(5000, 32)
    found = approximate.hnsw(features, 21, seed=0)
    assert (found.shape, found.dtype) == ((5000, 21), np.int32)
    assert recall(found, features, 21) > 0.97


def test_hnsw_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(ConfigError, match=r"'hnsw' needs the package hnswlib. .*'scan-tf\[hnsw\]'"):
        approximate.hnsw(clustered(50, 4), 3, seed=0)


def test_hnsw_that_reaches_too_few_rows_says_so(monkeypatch):
    class Index:
        def __init__(self, *_):
            pass

        def init_index(self, *_, **__):
            pass

        def add_items(self, *_):
            pass

        def set_ef(self, _):
            pass

        def knn_query(self, *_):
            raise RuntimeError("ef is too small")

    library = type(sys)("hnswlib")
    library.Index = Index
    monkeypatch.setitem(sys.modules, "hnswlib", library)
    expected = r"hnsw does not reach 3 rows from every row of 50 \(ef is too small\)"
    with pytest.raises(DataError, match=expected):
        approximate.hnsw(clustered(50, 4), 3, seed=0)
