"""RotNet: predict by which of four right angles an image was turned.

Source: Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image
Rotations", ICLR 2018. Every image is seen in all four rotations of the same batch (section 2).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scan_tf import models
from scan_tf.config import OptimizerConfig, PretextConfig
from scan_tf.lazy import tf
from scan_tf.methods.losses import rotation_cross_entropy
from scan_tf.methods.task import Batch, Pretext, View
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(PretextConfig):
    """The paper's schedule: 100 epochs of SGD at 0.1, batch 128 (512 rotated images)."""

    name: str = "rotnet"
    epochs: int = setting(100, low=1)
    batch_size: int = setting(128, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.1, nesterov=True, l2=5e-4, schedule="cosine"
    )
    feature_stage: int = setting(
        4,
        low=1,
        high=4,
        help="neighbours are found by the pooled output of this one of the four stages of the "
        "network; those before the last know more of what is seen and less of how it is turned "
        "(section 4.1, table 1)",
    )


class Method(Pretext):
    """The batch is turned inside the loss: B images make 4B inputs."""

    views = {"image": View("weak")}
    passes = 4

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.head = models.MLP((backbone.feature_dim, 4), name="rotation_head", layers=("linear",))
        self.networks = {"backbone": backbone, "rotation_head": self.head}
        if config.feature_stage != 4:
            self.embedding = f"stage {config.feature_stage}"

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Four-way cross-entropy over the 4B rotated images."""
        turned = rotations(batch["image"])
        labels = tf.repeat(tf.range(4), tf.shape(batch["index"])[0])
        logits = self.head(self.backbone(turned, training=True))
        hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
        return rotation_cross_entropy(logits, labels), {
            "rotation_acc": tf.reduce_mean(tf.cast(hits, tf.float32))
        }

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """The pooled output of a stage, float32 `[B, D]` for the last, rows of unit length."""
        stage = self.config.feature_stage
        if stage == 4:
            return super().embed(images)
        network: Any = self.backbone  # only a ResNet has stages
        features = network.stage_features(self.normalise(images), stage)
        return tf.math.l2_normalize(features, axis=-1)


def rotations(images: tf.Tensor) -> tf.Tensor:
    """Images `[B, S, S, 3]` turned by 0, 90, 180 and 270 degrees, `[4B, S, S, 3]`."""
    transposed = tf.transpose(images, [0, 2, 1, 3])
    quarter = tf.reverse(transposed, [1])
    half = tf.reverse(images, [1, 2])
    three_quarters = tf.reverse(transposed, [2])
    return tf.concat([images, quarter, half, three_quarters], axis=0)
