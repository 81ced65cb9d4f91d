"""Exact search of a bank that is cut into shards: in bounded memory, and by several processes.

Each shard is searched by itself, and of its best rows and those of the shards before it the best
are kept. That is the same as searching the whole bank, which never has to be in memory: it may be
a mapped file. Several processes each take a share of the queries, look at all shards for it, and
tell each other what they have found.
"""

from __future__ import annotations

import itertools

import numpy as np

from scan_tf.errors import DataError
from scan_tf.features import search
from scan_tf.features.search import Found
from scan_tf.replicas import Replicas

# Rows of a shard, at most: 128 MiB with 128 columns, and half of that again in bfloat16.
ROWS = 2**18
# Queries whose rows are merged, or told to the other processes, at a time.
_CHUNK = 2**15
# Shares of queries are multiples of this: the search takes its blocks as one process would.
_BLOCK = 256


def exact(
    bank: np.ndarray, queries: np.ndarray, k: int, *, rows: int = ROWS, progress: bool = False
) -> Found:
    """What `search.exact` finds, with the memory of a shard in place of the bank.

    Args:
        bank: float32 [N, P]; may be a mapped file.
        queries: float32 [Q, P]; may be a mapped file.
        k: at most N.
        rows: of a shard, at most; shards differ by one row in their size.
        progress: show a bar on stderr for every shard.

    Returns:
        Rows of the bank int32 [Q, k], inner products float32 [Q, k], best first; of equal products
        the lower row comes first.

    Raises:
        DataError: k is larger than the bank.
    """
    count = -(-len(bank) // rows)
    if count <= 1 or k > len(bank):
        return search.exact(bank, queries, k, progress=progress)
    edges = [len(bank) * number // count for number in range(count + 1)]
    best: Found | None = None
    for low, high in itertools.pairwise(edges):
        shard = np.ascontiguousarray(bank[low:high], np.float32)
        near, products = search.exact(shard, queries, min(k, high - low), progress=progress)
        near += np.int32(low)
        best = (near, products) if best is None else merged(best, (near, products), k)
    assert best is not None  # noqa: S101  there are at least two shards
    return best


def merged(lower: Found, upper: Found, k: int) -> Found:
    """The k best of two lists for every query, best first.

    Args:
        lower: rows int32 [Q, A] and products float32 [Q, A], best first.
        upper: the same [Q, B], of higher rows, which come last among equals.
        k: how many are kept; fewer where A + B is less.
    """
    count, width = len(lower[0]), lower[0].shape[1] + upper[0].shape[1]
    indices = np.empty((count, min(k, width)), np.int32)
    products = np.empty(indices.shape, np.float32)
    for low in range(0, count, _CHUNK):
        block = slice(low, low + _CHUNK)
        both = [np.concatenate([a[block], b[block]], 1) for a, b in zip(lower, upper, strict=True)]
        order = np.argsort(-both[1], axis=1, kind="stable")[:, :k]
        indices[block] = np.take_along_axis(both[0], order, 1)
        products[block] = np.take_along_axis(both[1], order, 1)
    return indices, products


def together(
    bank: np.ndarray, k: int, places: Replicas, *, rows: int = ROWS, progress: bool = False
) -> Found:
    """The k best rows for every row of a bank, by all processes; each of them has to call this.

    Args:
        bank: float32 [N, P], the same in all processes; may be a mapped file.
        k: at most N.
        places: the processes.
        rows: of a shard, at most.
        progress: show a bar on stderr for every shard.

    Returns:
        As `exact(bank, bank, k)`, in every process.

    Raises:
        DataError: k is larger than the bank.
    """
    count, processes = len(bank), places.processes
    if k > count:
        raise DataError(f"exact search: k = {k} is larger than the bank of {count} rows.")
    share = -(-count // (processes * _BLOCK)) * _BLOCK
    queries = bank[places.number * share : (places.number + 1) * share]
    near, products = exact(bank, queries, k, rows=rows, progress=progress)
    if processes == 1:
        return near, products
    # As one array of integers: the bits of the products go along.
    own = np.zeros((share, 2, k), np.int32)
    own[: len(near), 0], own[: len(near), 1] = near, products.view(np.int32)
    found = np.empty((processes, share, 2, k), np.int32)
    for low in range(0, share, _CHUNK):
        block = slice(low, low + _CHUNK)
        told = places.of_all(own[block])
        found[:, block] = told.reshape(processes, -1, 2, k)
    whole = found.reshape(-1, 2, k)[:count]
    return whole[:, 0].copy(), whole[:, 1].copy().view(np.float32)
