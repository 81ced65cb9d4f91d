"""k-means on the features: what a clustering has to beat, and often a good one.

Source: Lloyd, "Least squares quantization in PCM", 1982, with k-means++ starts (scikit-learn). The
classifier that the next stages use is fitted on the clusters, whose borders are linear.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scan_tf.config import ScanConfig
from scan_tf.methods.task import DirectClustering
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(ScanConfig):
    """Nothing is trained: epochs, heads, views and optimiser do nothing here."""

    name: str = "kmeans"
    restarts: int = setting(10, low=1, help="runs from so many starts, of which the tightest stays")


class Method(DirectClustering):
    """Clusters of least squared distance to their means."""

    config: Config

    def assign(self, features: np.ndarray, indices: np.ndarray, *, seed: int) -> np.ndarray:
        """Clusters int64 [N] of features of unit length."""
        from sklearn.cluster import KMeans  # the settings are read without it

        means = KMeans(self.heads.num_clusters, n_init=self.config.restarts, random_state=seed)
        return np.asarray(means.fit(features).labels_, np.int64)
