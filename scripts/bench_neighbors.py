"""Neighbour mining: exact search, Annoy and HNSW beside faiss, hnswlib and scikit-learn.

Examples:
    python scripts/bench_neighbors.py --features runs/NAME/neighbors/features.npz --json found.json
    python scripts/bench_neighbors.py --count 200000 --only 'beside hnswlib' --repeats 1
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench

if TYPE_CHECKING:
    import numpy as np


def rows(count: int, columns: int, features: str | None) -> np.ndarray:
    """Unit rows float32 [count, columns]: a file's, or 400 modes in 32 dimensions and noise."""
    import numpy as np

    if features:
        with np.load(features, allow_pickle=False) as file:
            found = file["train"][:count].astype(np.float32)
    else:
        random = np.random.default_rng(0)
        modes = random.standard_normal((400, 32), np.float32)[random.integers(0, 400, count)]
        latent = modes + 0.5 * random.standard_normal((count, 32), np.float32)
        found = latent @ random.standard_normal((32, columns), np.float32)
        found += 0.5 * random.standard_normal((count, columns), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def searching(k: int, search: Callable[..., np.ndarray], **data: Any) -> bench.Run:
    """Runs `search(rows, k + 1)`, the image itself among them; reports the recall of a sample."""
    import numpy as np

    features = rows(**data)
    sample = min(500, len(features), 2**26 // len(features))
    chosen = np.random.default_rng(1).choice(len(features), sample, replace=False)
    products = features[chosen] @ features.T
    place = len(features) - k - 1
    products.partition(place, axis=1)
    least = products[:, place, None] - 1e-6
    del products

    def run() -> dict[str, float]:
        found = search(features, k + 1)[chosen]
        similar = np.einsum("qp,qkp->qk", features[chosen], features[found])
        hits = (similar >= least).sum(axis=1)
        return {"recall": float((hits - 1).mean() / k)}

    return run


def faiss_flat(features: np.ndarray, k: int) -> np.ndarray:
    """What the official code searches with."""
    import faiss

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features)
    return index.search(features, k)[1]


def scan_tf_exact(features: np.ndarray, k: int) -> np.ndarray:
    """What `neighbors.index: exact` does."""
    from scan_tf.features.sharded import exact

    return exact(features, features, k)[0]


def tensorflow_top_k(features: np.ndarray, k: int) -> np.ndarray:
    """The plain way: a block of products, and TensorFlow's best of each row."""
    import numpy as np
    import tensorflow as tf

    bank = tf.constant(features)
    blocks = range(0, len(features), 250)
    products = (tf.matmul(bank[low : low + 250], bank, transpose_b=True) for low in blocks)
    return np.concatenate([tf.math.top_k(p, k).indices.numpy() for p in products])


def scikit_learn(features: np.ndarray, k: int) -> np.ndarray:
    """Euclidean distance, which ranks unit rows alike."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features)
    return index.kneighbors(features, return_distance=False)


def annoy_of(features: np.ndarray, k: int, trees: int) -> np.ndarray:
    """What `neighbors.index: annoy` does, the index in a file as in a run."""
    from scan_tf.config import NeighborsConfig
    from scan_tf.features import approximate

    with tempfile.TemporaryDirectory() as folder:
        config, path = NeighborsConfig(n_trees=trees), Path(folder) / "index.ann"
        index = approximate.annoy_index(features, config, seed=0, path=path)
        return approximate.annoy(index, features, k)


def annoy_queries(k: int, threads: int | None, trees: int, **data: Any) -> bench.Run:
    """The queries alone; the index is made once."""
    from scan_tf.config import NeighborsConfig
    from scan_tf.features import approximate

    features = rows(**data)
    index = approximate.annoy_index(features, NeighborsConfig(n_trees=trees), seed=0)

    def run() -> None:
        approximate.annoy(index, features, k + 1, threads=threads)

    return run


def hnsw(features: np.ndarray, k: int) -> np.ndarray:
    """What `neighbors.index: hnsw` does."""
    from scan_tf.features import approximate

    return approximate.hnsw(features, k, seed=0)


def mined(features: np.ndarray, k: int, index: str, trees: int) -> np.ndarray:
    """All that the stage `neighbors` does with its index, the recall of a sample aside."""
    from scan_tf.config import NeighborsConfig
    from scan_tf.features import neighbors

    config = NeighborsConfig(index=index, n_trees=trees, recall_sample=1)
    return neighbors.mine(features, config, k=k - 1, seed=0).indices


def hnswlib_itself(features: np.ndarray, k: int, breadth: int) -> np.ndarray:
    """The library called directly, everything at once, on all cores.

    Args:
        features: float32 [N,P].
        k: at most N.
        breadth: of a query; the graph is the program's, with 16 links and a breadth of 100.
    """
    import hnswlib

    index = hnswlib.Index("ip", features.shape[1])
    index.init_index(len(features), M=16, ef_construction=100, random_seed=0)
    index.add_items(features)
    index.set_ef(breadth)
    return index.knn_query(features, k)[0].astype("int32")


def main(argv: list[str] | None = None) -> int:
    """Print the table; see --help."""
    parser = bench.parser(__doc__, repeats=3)
    parser.add_argument("--count", type=int, default=50_000, help="images")
    parser.add_argument("--columns", type=int, default=128, help="dimensions of made-up features")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--trees", type=int, default=100, help="of Annoy")
    parser.add_argument("--breadth", type=int, default=100, help="of a query of hnswlib")
    parser.add_argument("--features", type=Path, help="features.npz of a run, in place of made-up")
    arguments = parser.parse_args(argv)
    features = str(arguments.features) if arguments.features else None
    data = {"count": arguments.count, "columns": arguments.columns, "features": features}

    whole = f"top {arguments.k} of {arguments.count:,}, index and search"

    def case(
        name: str, search: Callable[..., Any], *needs: str, group: str = whole, **more: Any
    ) -> bench.Case:
        options = {"k": arguments.k, "search": functools.partial(search, **more), **data}
        # Minutes need no warm-up.
        warm = arguments.count < 200_000
        return bench.Case(group, name, searching, options, arguments.count, needs=needs, warm=warm)

    trees = {"trees": arguments.trees}
    cases = [
        case("faiss IndexFlatIP", faiss_flat, "faiss"),
        case("scan_tf exact", scan_tf_exact),
        case("TensorFlow matmul + top_k", tensorflow_top_k),
        case("scikit-learn brute force", scikit_learn),
        case("scan_tf annoy", annoy_of, **trees),
        case("scan_tf hnsw", hnsw, "hnswlib"),
    ]
    beside = {"group": f"{whole}, beside hnswlib"}
    cases += [
        case("hnswlib", hnswlib_itself, "hnswlib", breadth=arguments.breadth, **beside),
        *(
            case(f"scan_tf neighbors.index={index}", mined, *needs, index=index, **trees, **beside)
            for index, needs in (("hnsw", ["hnswlib"]), ("annoy", []), ("exact", []))
        ),
    ]
    for name, threads in (("1 thread", 1), ("all cores", None)):
        options = {"k": arguments.k, "threads": threads, **trees, **data}
        cases.append(bench.Case("annoy, search", name, annoy_queries, options, arguments.count))
    bench.main(cases, arguments, "queries")
    return 0


if __name__ == "__main__":
    sys.exit(main())
