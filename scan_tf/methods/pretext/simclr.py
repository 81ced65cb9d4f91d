"""SimCLR: two augmented views of an image agree, against all other images of the batch.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
ICML 2020; settings as in the official SCAN configuration (temperature 0.1, projector
512 -> 512 -> 128 without BatchNorm, SGD 0.4, no warm-up, no blur).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from scan_tf import models
from scan_tf.config import OptimizerConfig
from scan_tf.lazy import tf
from scan_tf.methods.losses import nt_xent
from scan_tf.methods.pretext_losses import dcl
from scan_tf.methods.task import Batch, Pretext
from scan_tf.methods.two_views import TwoViewConfig
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(TwoViewConfig):
    """SCAN's settings."""

    name: str = "simclr"
    epochs: int = setting(500, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig("sgd", lr=0.4, schedule="cosine")
    temperature: float = setting(0.1, above=0, help="divides the similarities")
    symmetric: bool = setting(
        True, help="both views serve as anchors (the SimCLR paper); false: only the first does"
    )
    loss: Literal["ntxent", "dcl", "dclw"] = setting(
        "ntxent",
        help="ntxent; dcl, which keeps the positive out of the denominator; dclw, which also "
        "weights dissimilar positives up (Yeh et al., ECCV 2022)",
    )
    sigma: float = setting(
        0.5, above=0, help="of dclw: the smaller, the more dissimilar positives weigh"
    )
    hidden: int | None = setting(
        None, low=1, help="width of the projection head; null: as wide as the backbone's feature"
    )


class Method(Pretext):
    """Views a and b of each anchor go through one forward pass."""

    projects = True
    embedding = "projection"

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.views = config.views()
        hidden = config.hidden or backbone.feature_dim
        self.projector = models.ProjectionHead(backbone.feature_dim, hidden, projection_dim)
        self.networks = {"backbone": backbone, "projector": self.projector}

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """NT-Xent (equation 1 of the SimCLR paper), or what stands in its place."""
        config = self.config
        both = tf.concat([batch["a"], batch["b"]], axis=0)
        projected = self.projector(self.backbone(both, training=True))
        a, b = tf.split(projected, 2)
        if config.loss == "ntxent":
            loss = nt_xent(a, b, config.temperature, symmetric=config.symmetric)
        else:
            sigma = config.sigma if config.loss == "dclw" else None
            loss = dcl(a, b, config.temperature, symmetric=config.symmetric, sigma=sigma)
        alignment = tf.reduce_mean(tf.reduce_sum(a * b, axis=-1))
        return loss, {"positive_similarity": alignment}

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """The projection, float32 `[B, P]`, rows of unit length."""
        return self.projector(self.backbone.embed(images))
