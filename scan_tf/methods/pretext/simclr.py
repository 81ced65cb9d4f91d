"""SimCLR: two augmented views of an image agree, against all other images of the batch.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
ICML 2020; settings as in the official SCAN configuration (temperature 0.1, projector
512 -> 512 -> 128 without BatchNorm, SGD 0.4, no warm-up, no blur).
"""

from __future__ import annotations

import dataclasses

from scan_tf import models
from scan_tf.config import OptimizerConfig, PretextConfig
from scan_tf.lazy import tf
from scan_tf.methods.losses import nt_xent
from scan_tf.methods.task import Batch, Pretext, View
from scan_tf.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(PretextConfig):
    """The official SCAN schedule: 500 epochs of SGD at 0.4, batch 512."""

    name: str = "simclr"
    epochs: int = setting(500, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig("sgd", lr=0.4, schedule="cosine")
    temperature: float = setting(0.1, above=0, help="divides the similarities")
    symmetric: bool = setting(
        True, help="both views serve as anchors (the SimCLR paper); false: only the first does"
    )


class Method(Pretext):
    """Views a and b of each anchor go through one forward pass."""

    views = {"a": View("simclr"), "b": View("simclr")}

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.projector = models.ProjectionHead(projection_dim, backbone.feature_dim)
        self.projector(tf.zeros([1, backbone.feature_dim]))
        self.networks = {"backbone": backbone, "projector": self.projector}

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """NT-Xent (equation 1 of the SimCLR paper)."""
        both = tf.concat([batch["a"], batch["b"]], axis=0)
        projected = self.projector(self.backbone(both, training=True))
        a, b = tf.split(projected, 2)
        loss = nt_xent(a, b, self.config.temperature, symmetric=self.config.symmetric)
        alignment = tf.reduce_mean(tf.reduce_sum(a * b, axis=-1))
        return loss, {"positive_similarity": alignment}

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """The projection, float32 `[B, P]`, rows of unit length."""
        return self.projector(self.backbone.embed(images))
