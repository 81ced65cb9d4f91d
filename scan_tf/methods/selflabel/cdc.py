"""CDC: a second head learns how sure the clustering may be, and chooses what it learns from.

Source: Jia et al., "Towards Calibrated Deep Clustering Network", ICLR 2025. The calibration head
learns the mean prediction of the images around each image; the cluster head learns on strong views
from as many of the calibration head's surest images as that is confident. No threshold is to be
chosen. Both heads are SCAN's at the start, where the paper has MLPs that start from prototypes of
k-means, and the calibration head teaches the backbone nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from scan_tf import models
from scan_tf.config import OptimizerConfig, SelfLabelConfig
from scan_tf.lazy import tf
from scan_tf.methods.losses import entropy
from scan_tf.methods.task import Batch, SelfLabel, View
from scan_tf.settings.schema import setting

# Steps of Lloyd's algorithm on the features of a batch.
_LLOYD_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Config(SelfLabelConfig):
    """The paper's settings for CIFAR-10; its rate of the backbone for all."""

    name: str = "cdc"
    epochs: int = setting(100, low=0)
    optimizer: OptimizerConfig = OptimizerConfig("adam", lr=5e-5, l2=0.0)
    images_per_group: float = setting(
        2.0,
        low=1,
        help="images of a batch in a group that is to have one confidence (CIFAR-20: 25)",
    )
    entropy_weight: float = setting(
        1.0, low=0, help="how much it matters that the calibration head uses every cluster"
    )


class Method(SelfLabel):
    """Fine-tunes the backbone and its one remaining head, beside a head that tells how sure it is.

    Attributes:
        calibration: that head; it is saved, and later stages do not read it.
    """

    cached = False

    def __init__(self, config: Config, backbone: models.Backbone, heads: models.ClusterHeads):
        self.config = config
        self.heads, self.calibration = heads, heads.keep(0)
        self.networks = {"backbone": backbone, "heads": heads, "calibration": self.calibration}
        self.views = {"weak": View("none"), "strong": View(config.augmentation)}

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Cross-entropies of both heads, less the entropy of the calibration head's mean."""
        features = tf.cast(self.features(batch["weak"]), tf.float32)
        features = tf.stop_gradient(features)
        probs = tf.stop_gradient(tf.nn.softmax(self.heads(features)[0]))
        logits = self.calibration(features)[0]
        targets = group_means(
            tf.math.l2_normalize(features, -1), probs, self.config.images_per_group
        )
        calibration = tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)
        )
        spread = entropy(tf.reduce_mean(tf.nn.softmax(logits), 0))
        rows, labels, chosen = surest(tf.stop_gradient(tf.nn.softmax(logits)))
        strong = self.heads(self.features(batch["strong"]))[0]
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels, tf.gather(tf.cast(strong, tf.float32), rows)
        )
        clustering = tf.math.divide_no_nan(tf.reduce_sum(chosen * entropies), tf.reduce_sum(chosen))
        loss = clustering + calibration - self.config.entropy_weight * spread
        return loss, {
            "clustering": clustering,
            "calibration": calibration,
            "entropy": spread,
            "chosen": tf.reduce_sum(chosen) / tf.cast(tf.shape(probs)[0], tf.float32),
        }

    def account(self, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """How many images taught the clustering."""
        first, last = rows[0]["chosen"], rows[-1]["chosen"]
        print(f"  chosen to learn from: {first:.1%} at first, {last:.1%} at last")
        return {"chosen_first": first, "chosen_last": last}


def group_means(features: tf.Tensor, probs: tf.Tensor, images_per_group: float) -> tf.Tensor:
    """The mean prediction of the images around each image (section 3.2).

    Args:
        features: f32 [B,D], in random order: the first of them are where k-means starts.
        probs: f32 [B,C].
        images_per_group: B over the number of groups, of which there are at least C.

    Returns:
        f32 [B,C].
    """
    count, num_clusters = tf.shape(features)[0], tf.shape(probs)[1]
    groups = tf.cast(tf.cast(count, tf.float32) / images_per_group, tf.int32)
    groups = tf.minimum(tf.maximum(groups, num_clusters), count)
    centers = features[:groups]
    member = tf.zeros([count, groups])
    for _ in range(_LLOYD_STEPS):
        distance = tf.reduce_sum(centers**2, -1) - 2 * tf.matmul(
            features, centers, transpose_b=True
        )
        member = tf.one_hot(tf.argmin(distance, -1), groups)
        sizes = tf.reduce_sum(member, 0)[:, None]
        means = tf.math.divide_no_nan(tf.matmul(member, features, transpose_a=True), sizes)
        centers = tf.where(sizes > 0, means, centers)
    sizes = tf.reduce_sum(member, 0)[:, None]
    means = tf.math.divide_no_nan(tf.matmul(member, probs, transpose_a=True), sizes)
    return tf.matmul(member, means)


def surest(probs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """For each cluster the images that may teach it (section 3.3).

    Of the B/C images in which it is most probable so many as their mean probability says.

    Args:
        probs: f32 [B,C].

    Returns:
        int32 [C * (B // C)], rows of the batch; int32, their clusters; f32, 1 for those that count.
    """
    count, num_clusters = tf.shape(probs)[0], tf.shape(probs)[1]
    most = tf.maximum(count // num_clusters, 1)
    values, rows = tf.math.top_k(tf.transpose(probs), most)
    kept = tf.round(tf.reduce_mean(values, -1) * tf.cast(most, tf.float32))
    chosen = tf.cast(tf.cast(tf.range(most), tf.float32)[None] < kept[:, None], tf.float32)
    labels = tf.repeat(tf.range(num_clusters), most)
    return tf.reshape(rows, [-1]), labels, tf.reshape(chosen, [-1])
