"""The SCAN stage: an image and its neighbours get the same cluster, and every cluster is used.

Source: Van Gansbeke et al., "SCAN: Learning to Classify Images without Labels", ECCV 2020,
section 2.2, equation 2. Anchor and neighbour go through two separate forward passes, so that
each has its own BatchNorm statistics; the losses of several heads are summed (official code).
"""

from __future__ import annotations

import dataclasses

from scan_tf.config import ScanConfig
from scan_tf.lazy import tf
from scan_tf.methods.losses import scan_loss
from scan_tf.methods.task import Batch, Clustering
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(ScanConfig):
    """The paper's settings."""

    name: str = "scan"
    entropy_weight: float = setting(
        5.0, low=0, help="lambda of equation 2: how much it matters that every cluster is used"
    )


class Method(Clustering):
    """Cluster heads over a backbone, alone or with it."""

    config: Config

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Sum over heads of consistency - entropy_weight * entropy; the means are logged."""
        anchors = self.heads(self.features(batch["anchor"]))
        neighbors = self.heads(self.features(batch["neighbor"]))
        total, consistency, entropy = scan_loss(anchors, neighbors, self.config.entropy_weight)
        parts = {"total": total, "consistency": consistency, "entropy": entropy}
        return tf.reduce_sum(total), {k: tf.reduce_mean(v) for k, v in parts.items()}
