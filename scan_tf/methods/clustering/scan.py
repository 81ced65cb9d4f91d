"""The SCAN stage: an image and its neighbours get the same cluster, and every cluster is used.

Source: Van Gansbeke et al., "SCAN: Learning to Classify Images without Labels", ECCV 2020,
section 2.2, equation 2. Anchor and neighbour go through two separate forward passes, so that
each has its own BatchNorm statistics; the losses of several heads are summed (official code).
"""

from __future__ import annotations

import tensorflow as tf

from scan_tf.config import ScanConfig
from scan_tf.methods.losses import scan_loss
from scan_tf.methods.task import Batch, Task, View
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.resnet import ResNet


class ScanTask(Task):
    """Cluster heads over a backbone.

    Args:
        config: the scan section.
        backbone: pretrained network.
        heads: H cluster heads over its features.
        cached: the views of a batch are features `[B, D]` of a frozen backbone, not images.
    """

    def __init__(
        self, config: ScanConfig, backbone: ResNet, heads: ClusterHeads, *, cached: bool = False
    ):
        self.config = config
        self.heads = heads
        self.cached = cached
        self.networks = {"backbone": backbone, "heads": heads}
        policy = config.augmentation
        self.views = {"anchor": View(policy), "neighbor": View(policy, of="neighbor")}

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """The heads', and the backbone's unless it is frozen."""
        if self.config.freeze_backbone:
            return list(self.heads.trainable_variables)
        return super().trainable_variables

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Sum over heads of consistency - entropy_weight * entropy; the means are logged."""
        anchors = self.heads(self._features(batch["anchor"]))
        neighbors = self.heads(self._features(batch["neighbor"]))
        total, consistency, entropy = scan_loss(anchors, neighbors, self.config.entropy_weight)
        parts = {"total": total, "consistency": consistency, "entropy": entropy}
        return tf.reduce_sum(total), {k: tf.reduce_mean(v) for k, v in parts.items()}

    def _features(self, view: tf.Tensor) -> tf.Tensor:
        if self.cached:
            return tf.cast(view, tf.float32)
        if self.config.freeze_backbone:
            return tf.stop_gradient(self.backbone(view, training=False))
        return self.backbone(view, training=True)
