"""The search in shards and by several processes: against the search of the whole bank in one."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import threading

import numpy as np
import pytest
import worker_processes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import rows as around_centres

from scan_tf.config import NeighborsConfig
from scan_tf.errors import DataError
from scan_tf.features import neighbors, search, sharded
from scan_tf.replicas import ALONE


def whole_numbers(rng, count):
    """Rows with many equal products, all of them exact in float32."""
    return rng.integers(-3, 4, (40, 8))[rng.integers(0, 40, count)].astype(np.float32)


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [999, 500, 128, 10])
@pytest.mark.parametrize("make", [around_centres, whole_numbers])
def test_shards_find_what_the_whole_bank_has(rng, make, rows):
    bank = make(rng, 1000)
    queries = np.concatenate([bank[:40], make(rng, 30)])
    near, products = sharded.exact(bank, queries, 12, rows=rows)
    expected = search.exact(bank, queries, 12)
    if make is whole_numbers:
        same((near, products), expected)
    # Where a whole product is looked at, its last bit may be another than that of one row.
    np.testing.assert_array_equal(near, expected[0])
    np.testing.assert_allclose(products, expected[1], rtol=0, atol=5e-7)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 90))
def test_of_equal_products_the_lower_row_comes_first_in_any_shards(seed, count, rows):
    rng = np.random.default_rng(seed)
    bank = whole_numbers(rng, count)
    k = int(rng.integers(1, count + 1))
    truth = bank[:9] @ bank.T
    near, products = sharded.exact(bank, bank[:9], k, rows=rows)
    np.testing.assert_array_equal(near, np.argsort(-truth, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(products, np.take_along_axis(truth, near, 1))


def test_no_more_than_a_shard_is_searched_at_a_time(rng, tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", around_centres(rng, 1000))
    bank = np.load(tmp_path / "rows.npy", mmap_mode="r")
    seen, one = [], search.exact

    def watched(shard, queries, k, **how):
        seen.append(len(shard))
        return one(shard, queries, k, **how)

    monkeypatch.setattr(search, "exact", watched)
    near, _ = sharded.exact(bank, bank[:5], 4, rows=300)
    assert seen == [250, 250, 250, 250]
    np.testing.assert_array_equal(near, one(np.array(bank), np.array(bank[:5]), 4)[0])


@pytest.mark.parametrize("search_it", [sharded.exact, sharded.together])
def test_more_rows_than_there_are_are_refused(rng, search_it):
    bank = around_centres(rng, 50)
    others = (ALONE,) if search_it is sharded.together else ()
    with pytest.raises(DataError, match="k = 51 is larger than the bank of 50 rows"):
        search_it(bank, *((51, *others) if others else (bank, 51)), rows=20)


class Thread:
    """A process in a thread: tells all others its rows, and waits for theirs."""

    def __init__(self, number, barrier, told):
        self.number, self.processes = number, barrier.parties
        self._barrier, self._told = barrier, told

    def of_all(self, rows):
        self._told[self.number] = rows
        self._barrier.wait(timeout=60)
        whole = np.concatenate([self._told[n] for n in range(self.processes)])
        self._barrier.wait(timeout=60)
        return whole


def by_threads(count, bank, k, **how):
    """What each of so many processes has in the end."""
    barrier, told = threading.Barrier(count), {}
    places = [Thread(number, barrier, told) for number in range(count)]
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        work = [pool.submit(sharded.together, bank, k, place, **how) for place in places]
        return [one.result() for one in work]


@pytest.mark.parametrize("count", [2, 3, 5])  # of five the last has nothing to search
@pytest.mark.parametrize("make", [around_centres, whole_numbers])
def test_any_number_of_processes_finds_the_same(rng, monkeypatch, make, count):
    monkeypatch.setattr(sharded, "_CHUNK", 200)  # several, and a rest
    bank = make(rng, 1000)
    expected = sharded.together(bank, 7, ALONE, rows=300)
    same(expected, sharded.exact(bank, bank, 7, rows=300))
    for found in by_threads(count, bank, 7, rows=300):
        same(found, expected)


def test_neighbours_by_another_search_are_the_same(rng):
    config, features = NeighborsConfig(index="exact"), around_centres(rng, 700)
    alone = neighbors.mine(features, config, k=5, seed=0)

    def by_three(rows, k):
        return by_threads(3, rows, k, rows=200)[1]

    found = neighbors.mine(features, config, k=5, seed=0, search=by_three)
    same((found.indices, found.similarity), (alone.indices, alone.similarity))
    assert found.recall == 1.0


PROCESS = """
import sys, numpy as np
from scan_tf import replicas
from scan_tf.features import sharded
rows = np.load("rows.npy", mmap_mode="r")
places = replicas.processes()
near, products = sharded.together(rows, 6, places, rows=700)
assert places.agreed(5 + places.number) == 5
np.savez(f"found{places.number}.npz", near=near, products=products)
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("count", [2, 4])
def test_real_processes_find_what_one_finds(rng, tmp_path, count):
    bank = around_centres(rng, 3000)
    np.save(tmp_path / "rows.npy", bank)
    command = [sys.executable, "-c", PROCESS]
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=environment)
        for environment in worker_processes.environments(count)
    ]
    with worker_processes.ended_by_the_end(started):
        assert [process.wait(timeout=300) for process in started] == [0] * count
    expected = sharded.exact(bank, bank, 6, rows=700)
    same(expected[:1], search.exact(bank, bank, 6)[:1])
    for index in range(count):
        with np.load(tmp_path / f"found{index}.npz") as file:
            same((file["near"], file["products"]), expected)


def test_one_process_is_all_of_them():
    assert (ALONE.number, ALONE.processes) == (0, 1)
    rows = np.arange(3)
    assert ALONE.of_all(rows) is rows
