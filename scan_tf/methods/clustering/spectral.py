"""Spectral clustering of the graph of neighbours: one cut through few edges.

Source: Shi & Malik, "Normalized Cuts and Image Segmentation", PAMI 2000; Ng, Jordan & Weiss, "On
Spectral Clustering", NIPS 2001 (scikit-learn). Of every image its mined neighbours count, both
ways. The classifier that the next stages use is fitted on the clusters.
"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np

from scan_tf.config import ScanConfig
from scan_tf.methods.task import DirectClustering


@dataclasses.dataclass(frozen=True)
class Config(ScanConfig):
    """Nothing is trained: epochs, heads, views and optimiser do nothing here."""

    name: str = "spectral"


class Method(DirectClustering):
    """k-means on the first eigenvectors of the graph's Laplacian."""

    def assign(self, features: np.ndarray, indices: np.ndarray, *, seed: int) -> np.ndarray:
        """Clusters int64 [N] by the neighbours alone."""
        import scipy.sparse  # the settings are read without them
        from sklearn.cluster import SpectralClustering

        count, near = len(indices), indices[:, 1:]
        rows = np.repeat(np.arange(count), near.shape[1])
        edges = np.ones(near.size, np.float32)
        graph = scipy.sparse.csr_matrix((edges, (rows, near.ravel())), shape=(count, count))
        cut = SpectralClustering(self.heads.num_clusters, affinity="precomputed", random_state=seed)
        with warnings.catch_warnings():
            # Parts that no edge connects are clusters of their own, as they should be.
            warnings.filterwarnings("ignore", message="Graph is not fully connected")
            found = cut.fit((graph + graph.T) / 2).labels_
        return np.asarray(found, np.int64)
