"""Approximate search: an index over the rows, and every row's nearest ones by it.

Annoy (random projection trees, https://github.com/spotify/annoy) is deterministic for a seed, and
its index is one file that later runs map into memory. HNSW (Malkov & Yashunin, 2018, by hnswlib,
an optional package) finds more in less time on large sets; rows that several threads add at once
land in an order of chance, so two runs may differ in a few neighbours.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from scan_tf import machine
from scan_tf.config import NeighborsConfig
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.features.search import exact
from scan_tf.storage import files

if TYPE_CHECKING:
    from annoy import AnnoyIndex

# Queries that one thread takes at a time.
_CHUNK = 256
# Bytes up to which an index grows in memory.
_IN_MEMORY = 2**30
_HNSW_CHUNK = 10_000
# HNSW's links per row and breadth of the search when a row is added and when it is looked up.
_LINKS, _EF_CONSTRUCTION, _EF = 16, 100, 100


def annoy_index(
    features: np.ndarray, config: NeighborsConfig, *, seed: int, path: Path | None = None
) -> AnnoyIndex:
    """Annoy's forest over unit rows, from `path` where it holds that same forest.

    Args:
        features: float32 [N, P], unit rows.
        config: `n_trees` is read.
        seed: of the trees.
        path: where the index is kept, with what it was made of beside it; None: nowhere.

    Raises:
        StageError: there is no room for it.
    """
    from annoy import AnnoyIndex

    index = AnnoyIndex(features.shape[1], "angular")
    digest = hashlib.blake2b(features.data, digest_size=16).hexdigest()
    shape = {"rows": features.shape[0], "columns": features.shape[1]}
    stamp = {**shape, "n_trees": config.n_trees, "seed": seed, "features": digest}
    if path is None:
        _build(index, features, config.n_trees, seed)
        return index
    if _is_current(path, stamp):
        index.load(str(path))
        return index
    # The stamp goes first and comes back last: it never describes another index than its own.
    _stamp(path).unlink(missing_ok=True)
    size = _bytes(features, config.n_trees)
    with files.atomic(path, size=size) as temporary:
        try:
            if size > _IN_MEMORY:
                # The pages of a file need not stay in memory. Annoy writes into them without a
                # look at the disk; where that is full then, the program would get a SIGBUS.
                files.try_room(path.parent, size)
                index.on_disk_build(str(temporary))
                _build(index, features, config.n_trees, seed)
            else:
                _build(index, features, config.n_trees, seed)
                index.save(str(temporary))
        except Exception as error:  # Annoy knows no other kind
            if isinstance(error, StageError) or files.lacks_room(error):
                raise
            raise StageError(f"{path}: the index cannot be written ({error}).") from error
    files.write_text(_stamp(path), json.dumps({**stamp, "sha256": files.sha256(path)}))
    return index


def annoy(
    index: AnnoyIndex,
    features: np.ndarray,
    k: int,
    *,
    search_k: int = -1,
    threads: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """About the `k` nearest of every row, itself among them unless duplicates crowd it out.

    Args:
        index: Annoy's, over `features`.
        features: float32 [N, P], unit rows.
        k: at most N.
        search_k: nodes inspected per query; -1: 2 * trees * k, twice what Annoy itself takes.
        threads: None: one for every core; Annoy searches without Python's lock.
        progress: show a bar on stderr.

    Returns:
        int32 [N, k], in no order.
    """
    count = len(features)
    found = np.full((count, k), -1, np.int32)
    if search_k < 0:
        # On features of CIFAR-10 (50,000 x 128, 100 trees, K = 20) the recall was 0.966 with
        # Annoy's own default and 0.991 with this.
        search_k = 2 * index.get_n_trees() * k

    def search(rows: Iterable[int]) -> None:
        for row in rows:
            nearest = index.get_nns_by_item(row, k, search_k)
            found[row, : len(nearest)] = nearest

    chunks = [range(low, min(low + _CHUNK, count)) for low in range(0, count, _CHUNK)]
    with machine.threads(threads) as pool:
        for _ in tqdm(pool.map(search, chunks), "annoy", len(chunks), disable=not progress or None):
            pass
    # With a small search_k a query can end with fewer than k candidates.
    short = np.flatnonzero(found[:, -1] < 0)
    if len(short):
        found[short], _ = exact(features, features[short], k)
    return found


def hnsw_library() -> Any:
    """The module hnswlib. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module("hnswlib")
    except ImportError as error:
        raise ConfigError(
            "neighbors.index: 'hnsw' needs the package hnswlib. Install it with "
            "pip install 'scan-tf[hnsw]', or set neighbors.index to annoy or exact."
        ) from error


def hnsw(features: np.ndarray, k: int, *, seed: int, progress: bool = False) -> np.ndarray:
    """About the `k` nearest of every row by a graph of small worlds, on all cores.

    Args:
        features: float32 [N, P], unit rows.
        k: at most N.
        seed: of the levels of the rows.
        progress: show a bar on stderr.

    Returns:
        int32 [N, k], in no order.

    Raises:
        ConfigError: hnswlib is not installed.
        DataError: the graph does not reach k rows from every row.
    """
    library = hnsw_library()
    count = len(features)
    index = library.Index("ip", features.shape[1])
    index.init_index(count, M=_LINKS, ef_construction=_EF_CONSTRUCTION, random_seed=seed)
    chunks = [slice(low, low + _HNSW_CHUNK) for low in range(0, count, _HNSW_CHUNK)]
    for rows in tqdm(chunks, "hnsw index", disable=not progress or None):
        index.add_items(features[rows], np.arange(count)[rows])
    index.set_ef(max(_EF, 2 * k))
    try:
        found = [
            index.knn_query(features[rows], k)[0]
            for rows in tqdm(chunks, "hnsw", disable=not progress or None)
        ]
    except RuntimeError as error:
        raise DataError(
            f"neighbors.index: hnsw does not reach {k} rows from every row of {count} ({error}). "
            "Set neighbors.index to annoy or exact."
        ) from error
    return np.concatenate(found).astype(np.int32)


def _build(index: AnnoyIndex, features: np.ndarray, n_trees: int, seed: int) -> None:
    index.set_seed(seed)
    for row, vector in enumerate(features):
        index.add_item(row, vector)
    index.build(n_trees, n_jobs=-1)


def _bytes(features: np.ndarray, n_trees: int) -> int:
    """What a forest takes while it grows: half more than a node for each row and two a leaf."""
    count, dim = features.shape
    nodes = count + n_trees * (1 + 2 * count // dim)
    return 3 * (4 * dim + 12) * nodes // 2


def _is_current(path: Path, stamp: dict[str, object]) -> bool:
    try:
        known = json.loads(_stamp(path).read_text(encoding="utf-8"))
        return bool(known == {**stamp, "sha256": files.sha256(path)})
    except (OSError, ValueError):
        return False


def _stamp(path: Path) -> Path:
    """Where it is written what an index was made of."""
    return path.with_name(f"{path.name}.json")
