"""Barlow Twins: the dimensions of two views agree, each with itself and with no other.

Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML
2021.
"""

from __future__ import annotations

import dataclasses

from scan_tf import models
from scan_tf.config import OptimizerConfig
from scan_tf.lazy import tf
from scan_tf.methods.pretext_losses import barlow_twins_loss
from scan_tf.methods.task import Batch, Pretext
from scan_tf.methods.two_views import TwoViewConfig
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(TwoViewConfig):
    """SGD for CIFAR at batch 512 in place of LARS, and a projector of two layers."""

    name: str = "barlow_twins"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.24, l2=5e-4, schedule="cosine", final_fraction=0.0
    )
    redundancy_weight: float = setting(0.0051, low=0, help="lambda (official code)")
    hidden: int = setting(
        2048, low=1, help="width of the projector's hidden layer (the paper: two of 8192)"
    )
    dim: int = setting(2048, low=2, help="width of the projector's last layer (the paper: 8192)")


class Method(Pretext):
    """Each view goes through the networks by itself, as in the official code."""

    projects = True

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.views = config.views()
        dims = (backbone.feature_dim, config.hidden, config.dim)
        # A bias in the last layer would be subtracted by the loss.
        self.projector = models.MLP(dims, name="projector", bias=False)
        self.networks = {"backbone": backbone, "projector": self.projector}

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Equation 1; near the projector's width at the start.

        Logged are its parts: `invariance`, and `redundancy` before its weight.
        """
        a, b = (
            self.projector(self.backbone(batch[name], training=True), training=True)
            for name in ("a", "b")
        )
        loss, invariance, redundancy = barlow_twins_loss(a, b, self.config.redundancy_weight)
        return loss, {"invariance": invariance, "redundancy": redundancy}
