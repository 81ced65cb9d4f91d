"""Mining of nearest neighbours, exactly or with an approximate index (SCAN, section 2.1).

The image itself is column 0 of the result and stays in it: the clustering stage draws uniformly
from all K+1 columns, as the official configuration does. Similarities are inner products of unit
rows, which rank as Annoy's 'angular' distance does.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from scan_tf.config import NeighborsConfig
from scan_tf.errors import ConfigError, DataError
from scan_tf.features import approximate, sharded
from scan_tf.features.search import Found
from scan_tf.storage import files

# `auto` searches exactly up to here. Seconds of a core at N = 200,000, P = 128, K = 20, scaled up
# from a sample of the queries: exact 50 in bfloat16 and 90 in float32, Annoy with 100 trees 155.
# Exact search grows with N squared, Annoy almost with N.
EXACT_UP_TO = 250_000
# What numpy.load and reading entries raise on a file that is missing or damaged.
_UNREADABLE = (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, BadZipFile)
# Rows that are sorted at a time.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The K nearest neighbours of N images.

    Attributes:
        indices: int32 [N, K+1]; column 0 is the image itself, the others fall in similarity.
        similarity: float32 [N, K+1] in -1..1, cosine of the image and each entry of `indices`.
        index: "exact", "annoy" or "hnsw".
        reason: why this index was used.
        recall: share of the K neighbours that are as near as the exact ones, without column 0,
            estimated on a sample; 1.0 for the exact search; None where unknown.
        seconds: time to build the index and search it, without the recall estimate.
    """

    indices: np.ndarray
    similarity: np.ndarray
    index: str
    reason: str
    recall: float | None
    seconds: float


def mine(
    features: np.ndarray,
    config: NeighborsConfig,
    *,
    k: int,
    seed: int,
    index_path: Path | None = None,
    search: Callable[[np.ndarray, int], Found] | None = None,
    progress: bool = False,
) -> Neighbors:
    """Find the `k` nearest neighbours of every row.

    Args:
        features: float32 [N, P]; unit rows (they are normalised again, in float32).
        config: which index and its parameters; `config.k` is not read.
        k: neighbours per image, without the image itself.
        seed: of the index and of the sample for the recall.
        index_path: where Annoy's index is kept, for the same features, `n_trees` and `seed`.
        search: what finds the `k` best rows for every row of unit rows float32 [N, P] where the
            index is the exact one; None: `sharded.exact`, in this process.
        progress: show a bar on stderr.

    Raises:
        ConfigError: fewer than k+1 rows.
        DataError: a row is zero or not finite.
    """
    features = _unit_rows(features)
    if len(features) <= k:
        most = len(features) - 1
        advice = f"Set it to {most} or less." if most > 0 else "Add images."
        raise ConfigError(f"k = {k} needs at least {k + 1} images, got {len(features)}. {advice}")
    index, reason = _choose(config, len(features))
    start = time.perf_counter()
    if index == "exact":
        if search is None:
            candidates, _ = sharded.exact(features, features, k + 1, progress=progress)
        else:
            candidates, _ = search(features, k + 1)
    elif index == "hnsw":
        candidates = approximate.hnsw(features, k + 1, seed=seed, progress=progress)
    else:
        forest = approximate.annoy_index(features, config, seed=seed, path=index_path)
        candidates = approximate.annoy(
            forest, features, k + 1, search_k=config.search_k, progress=progress
        )
        del forest  # up to gigabytes, before the recall takes its own
    indices, similarity = _self_first(features, np.arange(len(features)), candidates)
    seconds = time.perf_counter() - start
    recall = 1.0 if index == "exact" else _recall(features, similarity, config.recall_sample, seed)
    return Neighbors(indices, similarity, index, reason, recall, seconds)


def restrict(indices: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Neighbours within a subset of the images, renumbered to the subset.

    Neighbours outside the subset are dropped, and the row is filled up by cycling through what
    remains of it; the image itself always remains, in column 0.

    Args:
        indices: int32 [N, K+1], column 0 is the image itself.
        keep: bool [N], true for the M images of the subset.

    Returns:
        int32 [M, K+1] with values in 0..M-1. Raises DataError where `keep` has another form.
    """
    if keep.shape != (len(indices),) or keep.dtype != bool:
        raise DataError(
            f"restrict: expected keep as bool [{len(indices)}], got {keep.dtype} {keep.shape}."
        )
    rows = indices[keep]
    stays = keep[rows]
    # Stable: what stays comes first, in its old order.
    order = np.argsort(~stays, axis=1, kind="stable")
    cycle = np.arange(rows.shape[1]) % stays.sum(axis=1, keepdims=True)
    rows = np.take_along_axis(rows, np.take_along_axis(order, cycle, axis=1), axis=1)
    renumbered = np.cumsum(keep, dtype=np.int32) - 1
    return renumbered[rows].astype(np.int32)


def save(path: str | Path, neighbors: Neighbors) -> None:
    """Write a `.npz` file; a reader sees the old file or the whole new one, never a part."""
    values = dataclasses.asdict(neighbors)
    values["recall"] = np.nan if neighbors.recall is None else neighbors.recall
    size = neighbors.indices.nbytes + neighbors.similarity.nbytes
    with files.atomic(Path(path), size=size) as temporary, temporary.open("wb") as file:
        np.savez(file, **values)


def load(path: str | Path) -> Neighbors:
    """Read what `save` wrote. Raises DataError where the file is missing, damaged or another."""
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            values = {field.name: file[field.name] for field in dataclasses.fields(Neighbors)}
        for name in ("index", "reason", "recall", "seconds"):
            values[name] = values[name].item()
        values["recall"] = None if np.isnan(values["recall"]) else values["recall"]
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: not a readable neighbours file ({error}). Mine the neighbours again."
        ) from error
    indices, similarity = values["indices"], values["similarity"]
    kinds = indices.dtype == np.int32 and similarity.dtype == np.float32
    if not kinds or indices.ndim != 2 or similarity.shape != indices.shape or not indices.size:
        raise DataError(
            f"{path}: expected indices int32 and similarity float32, both [N, K+1], got "
            f"{indices.dtype} {indices.shape} and {similarity.dtype} {similarity.shape}."
        )
    rows = np.arange(len(indices))
    if indices.min() < 0 or indices.max() >= len(rows) or (indices[:, 0] != rows).any():
        raise DataError(f"{path}: indices: expected 0..{len(rows) - 1}, each image in column 0.")
    return Neighbors(**values)


def _choose(config: NeighborsConfig, count: int) -> tuple[str, str]:
    if config.index != "auto":
        return config.index, f"neighbors.index = {config.index}"
    index = "exact" if count <= EXACT_UP_TO else "annoy"
    return index, f"auto: {count:,} images; the exact search is quick up to {EXACT_UP_TO:,}"


def _unit_rows(features: np.ndarray) -> np.ndarray:
    """Contiguous float32 [N, P] with rows of length 1, or DataError."""
    features = np.ascontiguousarray(features, np.float32)
    if features.ndim != 2:
        raise DataError(f"features: expected [N, P], got the shape {list(features.shape)}.")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise DataError(
            f"features: {len(bad)} of {len(features)} rows are zero or not finite, the first is "
            f"row {bad[0]}. Check that the pretext training ended with a finite loss."
        )
    # Rows of length 1 but for rounding need no copy.
    return features if np.abs(norms - 1).max() < 1e-6 else features / norms


def _self_first(
    features: np.ndarray, rows: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put each row itself in column 0 and sort the other candidates [Q, K+1] by similarity.

    Where the row is not among them (duplicates outrank it), the farthest one makes way.
    """
    indices = np.empty_like(candidates)
    similarity = np.empty(candidates.shape, np.float32)
    for low in range(0, len(rows), _CHUNK):
        block = slice(low, low + _CHUNK)
        own, near = rows[block], candidates[block].copy()
        dots = np.einsum("qp,qkp->qk", features[own], features[near]).clip(-1, 1)
        dots[near == own[:, None]] = np.inf  # above every similarity
        missing = np.isfinite(dots).all(axis=1)
        worst = dots.argmin(axis=1)
        near[missing, worst[missing]], dots[missing, worst[missing]] = own[missing], np.inf
        order = np.argsort(-dots, axis=1, kind="stable")
        indices[block] = np.take_along_axis(near, order, axis=1)
        similarity[block] = np.take_along_axis(dots, order, axis=1)
    similarity[:, 0] = 1.0
    return indices, similarity


def _recall(features: np.ndarray, similarity: np.ndarray, sample: int, seed: int) -> float:
    """Share of neighbours at least as similar as the K-th exact one, which counts ties as hits."""
    count, columns = similarity.shape
    rows = np.random.default_rng(seed).choice(count, min(sample, count), replace=False)
    candidates, _ = sharded.exact(features, features[rows], columns)
    _, best = _self_first(features, rows, candidates)
    # The sums of the same product may differ in the last bit.
    return float((similarity[rows, 1:] >= best[:, -1:] - 1e-6).mean())
