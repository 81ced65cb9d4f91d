"""Exact search for the rows of a bank that are most similar to each query.

On a CPU the largest part of a search is not the matrix product but finding the best of its rows,
so most of the product is only ever looked at once: the bank is cut into groups, the k-th largest
maximum of a group bounds the k-th largest product from below, and only what comes near that bound
is computed again, in float32, and sorted. Because of that second look the first product may be a
cheap one in bfloat16: what it rounds is part of the bound, so that nothing can be missed.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from scan_tf.errors import DataError
from scan_tf.machine import cpu_has_bfloat16, num_cpus, threads

# Products of all threads that exist at a time: 256 MiB in bfloat16, 512 MiB in float32. Large
# banks and many cores take more: each thread multiplies at least so many queries at a time.
_BLOCK_VALUES = 2**27
_MIN_BLOCK, _MAX_BLOCK = 16, 256
# A query with more candidates than this many times k is searched without the short cut.
_MANY = 100
# Relative error of one rounding to bfloat16 and of one to float32.
_UNIT = {"bfloat16": 2.0**-8, "float32": 2.0**-24}

Found = tuple[np.ndarray, np.ndarray]


def exact(bank: np.ndarray, queries: np.ndarray, k: int, *, progress: bool = False) -> Found:
    """The `k` rows of the bank with the largest inner product with each query, best first.

    Products are those of float32: rows whose products differ by less than its rounding, about
    P * 6e-8 times the lengths of both rows, may change places. Of equal products the lower row
    comes first. Memory beside the arguments and results: two copies of the bank at most, and
    `_BLOCK_VALUES` products; never the Q x N matrix.

    Args:
        bank: float32 [N, P].
        queries: float32 [Q, P].
        k: at most N.
        progress: show a bar on stderr.

    Returns:
        Rows of the bank int32 [Q, k], inner products float32 [Q, k].

    Raises:
        DataError: k is larger than the bank.
    """
    if k > len(bank):
        raise DataError(f"exact search: k = {k} is larger than the bank of {len(bank)} rows.")
    gpu = bool(tf.config.list_physical_devices("GPU"))
    count = 1 if gpu else num_cpus()
    search: Callable[[np.ndarray], Found]
    search = functools.partial(_plain, tf.constant(bank), k) if gpu else _Grouped(bank, k)
    block = min(_MAX_BLOCK, max(_MIN_BLOCK, _BLOCK_VALUES // (count * len(bank))))
    blocks = [queries[low : low + block] for low in range(0, len(queries), block)]
    with _full_float32(), threads(count) as pool:
        bar = {"total": len(blocks), "disable": not progress or None}
        done = tqdm(pool.map(search, blocks), "exact search", **bar)
        found = [(np.empty((0, k), np.int32), np.empty((0, k), np.float32)), *done]
    indices, products = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return indices, products


def others(bank: np.ndarray, rows: np.ndarray, k: int) -> Found:
    """As `exact` for the queries `bank[rows]`, int [Q], none of which counts as near itself.

    Raises:
        DataError: k is not smaller than the bank.
    """
    near, products = exact(bank, bank[rows], k + 1)
    itself = near == np.asarray(rows)[:, None]
    # More than k rows equal to a row can push it out of its own list.
    itself[~itself.any(axis=1), -1] = True
    return near[~itself].reshape(-1, k), products[~itself].reshape(-1, k)


def _plain(bank: tf.Tensor, k: int, queries: np.ndarray) -> Found:
    """The whole product and TensorFlow's top_k: quick on a GPU, and right for every input."""
    best = tf.math.top_k(tf.matmul(tf.constant(queries), bank, transpose_b=True), k)
    return best.indices.numpy(), best.values.numpy()


class _Grouped:
    """The search of a CPU.

    The bank is laid out as `size` slabs of `groups` rows, filled up with zeros; the rows at the
    same place in every slab are a group, so that the maxima of all groups are one running maximum
    over the slabs. About sqrt(N / k) slabs make the maxima as few as the members of the k best
    groups.
    """

    def __init__(self, bank: np.ndarray, k: int):
        tensor = tf.constant(bank)
        self.plain = functools.partial(_plain, tensor, k)
        self.bank, self.k = np.asarray(tensor), k  # the same memory
        self.size = math.isqrt(len(bank) // k)
        self.groups = -(-len(bank) // self.size)
        dtype = "bfloat16" if cpu_has_bfloat16() else "float32"
        padding = [[0, self.size * self.groups - len(bank)], [0, 0]]
        self.cheap = tf.pad(tf.cast(bank, dtype), padding)
        longest = math.sqrt(np.einsum("np,np->n", bank, bank).max())
        # The rounding of both factors and of the result, and of the sum in float32, which the
        # candidates are computed with too.
        roundings = 3.01 * _UNIT[dtype] + 2 * bank.shape[1] * _UNIT["float32"]
        self.error = roundings * longest

    def __call__(self, queries: np.ndarray) -> Found:
        """Rows int32 [b, k] and products float32 [b, k] of queries [b, P]."""
        queries = np.ascontiguousarray(queries, np.float32)
        # This way round, the product and the running maximum both write long rows.
        cheap = tf.matmul(self.cheap, tf.cast(queries, self.cheap.dtype), transpose_b=True)
        products = _ordered(np.asarray(cheap)).reshape(self.size, self.groups, len(queries))
        maxima = products.max(axis=0)
        place = self.groups - self.k
        bound = _floats(np.partition(maxima.T.copy(), place, axis=1)[:, place])
        least = bound - 2 * self.error * np.linalg.norm(queries, axis=1)
        # Below zero, `_ordered` does not order, and the zeros that fill up the bank count.
        if not (least > 0).all():
            return self.plain(queries)
        floor = _at_least(least, products.dtype)
        group, row = np.nonzero(maxima >= floor)
        if len(row) > _MANY * self.k * len(queries):
            return self.plain(queries)
        slab, member = np.nonzero(products[:, group, row] >= floor[row])
        row, column = row[member], slab * self.groups + group[member]
        if len(row) > _MANY * self.k * len(queries):
            return self.plain(queries)
        exactly = np.einsum("cp,cp->c", queries[row], self.bank[column])
        return _best(row, column, exactly, len(queries), self.k)


def _best(row: np.ndarray, column: np.ndarray, product: np.ndarray, count: int, k: int) -> Found:
    """The k best candidates of each of `count` queries, which has at least k.

    Candidate number c is the row `column[c]` of the bank for the query `row[c]`. Order and
    column make one integer, which sorts much faster than two keys.
    """
    key = (~_rising(product.view(np.int32)).astype(np.int64) << 32) | column
    counts = np.bincount(row, minlength=count)
    query = np.argsort(row, kind="stable")
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((count, counts.max()), np.iinfo(np.int64).max)
    table[row[query], place] = key[query]
    best = np.sort(table, axis=1)[:, :k]
    products = _rising(~(best >> 32).astype(np.int32)).view(np.float32)
    return (best & 0xFFFFFFFF).astype(np.int32), products


def _rising(bits: np.ndarray) -> np.ndarray:
    """The bits of float32 as int32 that rise with the number; applied twice, the bits again."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _ordered(values: np.ndarray) -> np.ndarray:
    """Numbers that NumPy compares quickly: bfloat16 as int16, whose order is that above zero."""
    return values if values.dtype == np.float32 else values.view(np.int16)


def _floats(ordered: np.ndarray) -> np.ndarray:
    """The float32 values of what `_ordered` gave."""
    if ordered.dtype == np.float32:
        return ordered
    return (ordered.astype(np.int32) << 16).view(np.float32)


def _at_least(least: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The smallest of the numbers of `_ordered` that is not below `least`, float32 above zero."""
    if dtype == np.float32:
        return least
    return ((least.view(np.int32) + 0xFFFF) >> 16).astype(np.int16)


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Keep GPUs from multiplying float32 in TensorFloat-32, which has 10 bits."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
