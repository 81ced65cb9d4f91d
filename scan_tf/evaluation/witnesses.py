"""Ways of telling without labels how many clusters there are: each scores numbers of clusters.

All of them take rows of length 1, float32 [N,P], and none sees a label. What they say means little
by itself, because most favour few clusters or many whatever there is: `num_clusters.py` compares it
with what they say of features without groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from scan_tf.evaluation.head_scores import pairwise_nmi, silhouettes
from scan_tf.features.rows import unit

# Starts of k-means: many where clusters are few, of which each counts; and its iterations.
_STARTS, _FEWEST_STARTS, _MOST_STARTS, _ITERATIONS = 60, 2, 10, 50
# Neighbours that an image is joined to in the graph, and that it asks for its cluster.
_JOINED, _ASKED = 15, 5
# Graphs of fewer images are taken apart as a whole.
_SMALL = 400


def by_means(
    rows: np.ndarray, numbers: Sequence[int], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Clusters of k-means: whether they come back in other images, and how compact they are.

    Two halves of the rows are clustered apart, and the centres of each sort all rows (Lange et al.,
    "Stability-Based Validation of Clustering Solutions", Neural Computation 2004).

    Args:
        rows: at least two for each of the greatest number.
        numbers: K numbers of clusters.
        random: of the halves and the starts.

    Returns:
        NMI of the two sortings, float64 [K] in 0..1; the silhouette of the first of them, float64
        [K] in -1..1; and how many rows each of its clusters has.
    """
    halves, stability, compact, sizes = _halves(rows, random), [], [], []
    base = int(random.integers(2**31))
    for k in numbers:
        random, found = _of_number(base, k), []
        for half in halves:
            centers = means(rows[half], k, random).cluster_centers_
            found.append(((centers**2).sum(axis=1) - 2 * rows @ centers.T).argmin(axis=1))
        onehot = np.stack([np.eye(k, dtype=np.float32)[clusters] for clusters in found])
        stability.append(pairwise_nmi(onehot)[0, 1])
        compact.append(silhouettes(found[0][None], onehot[:1], rows, random)[0])
        sizes.append(np.bincount(found[0], minlength=k))
    return np.array(stability), np.array(compact), sizes


def by_graph(rows: np.ndarray, numbers: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Whether clusters of the graph of neighbours come back: ARI, float64 [K], as by `by_means`.

    Halves are clustered by their spectral embeddings (Ng, Jordan and Weiss, 2001); to the images of
    the other half their nearest ones say where they belong.
    """
    halves, most = _halves(rows, random), max(numbers)
    spectra = [spectrum(rows[half], most)[1] for half in halves]
    nearest = [_nearest(rows[half], rows, _ASKED) for half in halves]
    scores, base = [], int(random.integers(2**31))
    for k in numbers:
        random, found = _of_number(base, k), []
        for axes, near in zip(spectra, nearest, strict=True):
            clusters = means(unit(axes[:, :k]), k, random).labels_
            found.append(np.eye(k)[clusters][near].sum(axis=1).argmax(axis=1))
        scores.append(adjusted_rand_score(*found))
    return np.array(scores)


def spectrum(rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of the normalised graph of neighbours, falling, and their vectors.

    Returns:
        float64 [M] of at most 1, M = `most` or fewer where there are fewer rows, and [N,M].
    """
    count = len(rows)
    near = _nearest(rows, rows, min(_JOINED, count // 4), itself=False)
    places = np.repeat(np.arange(count), near.shape[1]), near.ravel()
    graph = sparse.csr_matrix((np.ones(near.size), places), (count, count))
    graph = graph + graph.T
    scale = sparse.diags(1 / np.sqrt(np.asarray(graph.sum(axis=1)).ravel()))
    joined, most = scale @ graph @ scale, min(most, count - 1)
    if count < _SMALL:
        values, vectors = np.linalg.eigh(joined.toarray())
    else:
        values, vectors = eigsh(joined, most, which="LA", v0=np.ones(count))
    order = np.argsort(-values)[:most]
    return values[order], vectors[:, order]


def means(rows: np.ndarray, k: int, random: np.random.Generator) -> Any:
    """K-means, fitted."""
    starts = min(_MOST_STARTS, max(_FEWEST_STARTS, _STARTS // k))
    seed = int(random.integers(2**31))
    return KMeans(k, n_init=starts, max_iter=_ITERATIONS, random_state=seed).fit(rows)


def _of_number(base: int, k: int) -> np.random.Generator:
    """Random numbers of its own for each number of clusters: which others are tried is the same."""
    return np.random.default_rng([base, k])


def _halves(rows: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows of two random halves."""
    order = random.permutation(len(rows))
    return np.sort(order[::2]), np.sort(order[1::2])


def _nearest(bank: np.ndarray, rows: np.ndarray, k: int, *, itself: bool = True) -> np.ndarray:
    """The `k` nearest of a bank to every row, int64 [N,k], in no order; without `itself` others."""
    likeness = rows @ bank.T
    if not itself:
        np.fill_diagonal(likeness, -np.inf)
    k = max(1, min(k, len(bank) - 1))
    return np.asarray(np.argpartition(-likeness, k - 1, axis=1)[:, :k])
