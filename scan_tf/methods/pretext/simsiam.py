"""SimSiam: predict the projection of the other view, which itself is held fixed.

Source: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021: BYOL without a
target network; that no gradient goes through the projections is what keeps it from collapse.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scan_tf import models
from scan_tf.config import OptimizerConfig
from scan_tf.lazy import tf
from scan_tf.methods.pretext_losses import simsiam_loss, spread
from scan_tf.methods.task import Batch, Pretext
from scan_tf.methods.two_views import TwoViewConfig
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(TwoViewConfig):
    """The paper's settings for CIFAR-10 (appendix D): a rate of 0.03 per 256 images."""

    name: str = "simsiam"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.06, l2=5e-4, schedule="cosine", final_fraction=0.0
    )
    dim: int = setting(2048, low=2, help="width of both layers of the projector")
    bottleneck: int = setting(512, low=1, help="hidden width of the predictor")
    constant_predictor_lr: bool = setting(
        True, help="the predictor learns at the full rate to the end (section 4.2)"
    )


class Method(Pretext):
    """Each view goes through the networks by itself, as in the official code."""

    projects = True

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.views = config.views()
        dims = (backbone.feature_dim, config.dim, config.dim)
        self.projector = models.MLP(dims, name="projector", norm="all")
        self.predictor = models.MLP((config.dim, config.bottleneck, config.dim), name="predictor")
        self.networks = {
            "backbone": backbone,
            "projector": self.projector,
            "predictor": self.predictor,
        }

    @property
    def constant_rate_variables(self) -> list[Any]:
        """The predictor's, unless told otherwise."""
        return self.predictor.trainable_variables if self.config.constant_predictor_lr else []

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Equation 4; -1 at the least. A loss near it with `spread` near 0 is collapse."""
        a, b = (
            self.projector(self.backbone(batch[name], training=True), training=True)
            for name in ("a", "b")
        )
        predicted_a, predicted_b = (self.predictor(z, training=True) for z in (a, b))
        return simsiam_loss(predicted_a, a, predicted_b, b), {"spread": spread(a)}
