"""What many clusterings of the same images have in common, and how far they differ.

Heads trained alike differ by tens of points of ACC while their losses agree. A consensus is
steady where the choice of one head is a lottery, and the agreement of the heads says without
labels how far any of them is to be trusted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from scan_tf.errors import DataError

# k-means runs on a random subset above this many values (128 MiB of float32).
_FIT_VALUES = 2**25
_BLOCK = 10_000


def consensus(
    probs: np.ndarray, *, num_clusters: int, seed: int, restarts: int = 10
) -> np.ndarray:
    """Clusters on which many heads agree best.

    k-means on the square roots of the heads' probabilities, side by side: the squared distance of
    two images is then the sum over heads of twice their squared Hellinger distance. Heads need not
    number the clusters alike, nor have as many.

    Args:
        probs: [H,N,C'], rows sum to 1.
        num_clusters: C, how many clusters to make.
        seed: of k-means.
        restarts: of k-means; the best counts.

    Returns:
        Soft assignments f32 [N,C]: the mean of the heads, each numbered as the clusters found
        (Hungarian matching), or rather the share of its probability that goes there. They sum to
        1; the largest is the confidence that all heads together have.

    Raises:
        DataError: fewer images than clusters.
    """
