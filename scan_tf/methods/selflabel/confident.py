"""The self-label stage: confident predictions become labels of strongly augmented images.

Source: Van Gansbeke et al., ECCV 2020, section 2.3. The weak forward pass has no gradient but
runs in training mode, before the strong one (official code). A batch without a confident image
makes no step; it is counted in the metric `skipped`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from scan_tf.config import SelfLabelConfig
from scan_tf.methods.losses import confident_cross_entropy
from scan_tf.methods.task import Batch, Task, View
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.resnet import ResNet


class SelfLabelTask(Task):
    """Fine-tunes the backbone and its one remaining head.

    Args:
        config: the selflabel section.
        backbone: network of the selected SCAN model.
        heads: its best head alone (H = 1).
    """

    def __init__(self, config: SelfLabelConfig, backbone: ResNet, heads: ClusterHeads):
        self.config = config
        self.heads = heads
        self.networks = {"backbone": backbone, "heads": heads}
        self.views = {"weak": View("none"), "strong": View(config.augmentation)}
        self.averages = [
            tf.Variable(v, trainable=False, name=f"ema/{v.path}")
            for v in (self._weights if config.ema else [])
        ]

    @property
    def _weights(self) -> list[Any]:
        return [v for n in self.networks.values() for v in n.variables]

    @property
    def extra_state(self) -> list[Any]:
        """The moving averages, where `ema` is on."""
        return self.averages

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Cross-entropy on the strong view against the confident labels of the weak one."""
        weak = tf.stop_gradient(self._logits(batch["weak"]))
        strong = self._logits(batch["strong"])
        loss, confident = confident_cross_entropy(
            weak, strong, self.config.threshold, balanced=self.config.balanced
        )
        count = tf.cast(tf.shape(weak)[0], tf.float32)
        skipped = tf.cast(tf.equal(confident, 0), tf.float32)
        return loss, {"confident": tf.cast(confident, tf.float32) / count, "skipped": skipped}

    def after_update(self, batch: Batch) -> None:
        """Move the averages: a = ema * a + (1 - ema) * w."""
        for average, weight in zip(self.averages, self._weights, strict=False):
            average.assign(weight + self.config.ema * (average - weight))

    def finish(self) -> None:
        """Put the averages in place of the weights, where `ema` is on."""
        for average, weight in zip(self.averages, self._weights, strict=False):
            weight.assign(average)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        return self.heads(self.backbone(images, training=True))[0]
