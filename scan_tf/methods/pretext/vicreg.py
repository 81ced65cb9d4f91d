"""VICReg: two views agree, every dimension keeps its variance, no two dimensions vary together.

Source: Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
Self-Supervised Learning", ICLR 2022.
"""

from __future__ import annotations

import dataclasses

from scan_tf import models
from scan_tf.config import OptimizerConfig
from scan_tf.lazy import tf
from scan_tf.methods.pretext_losses import vicreg_loss
from scan_tf.methods.task import Batch, Pretext
from scan_tf.methods.two_views import TwoViewConfig
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(TwoViewConfig):
    """The paper's weights (section 4.2); SGD in place of LARS, an expander of two layers."""

    name: str = "vicreg"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.12, l2=5e-4, schedule="cosine", final_fraction=0.0
    )
    solarize: tuple[float, float] = setting((0.0, 0.1), low=0, high=1)
    invariance_weight: float = setting(25.0, low=0, help="lambda: how much the views agree")
    variance_weight: float = setting(25.0, low=0, help="mu: how much each dimension varies")
    covariance_weight: float = setting(
        1.0, low=0, help="nu: how little two dimensions tell of each other"
    )
    hidden: int = setting(
        2048, low=1, help="width of the expander's hidden layer (the paper: two of 8192)"
    )
    dim: int = setting(2048, low=2, help="width of the expander's last layer (the paper: 8192)")


class Method(Pretext):
    """Each view goes through the networks by itself, as in the official code."""

    projects = True

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.views = config.views()
        dims = (backbone.feature_dim, config.hidden, config.dim)
        # No term of the loss sees a bias in the last layer.
        self.projector = models.MLP(dims, name="projector", bias=False)
        self.networks = {"backbone": backbone, "projector": self.projector}

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Equation 6. Logged are its parts before their weights; `variance` near 1 is collapse."""
        a, b = (
            self.projector(self.backbone(batch[name], training=True), training=True)
            for name in ("a", "b")
        )
        loss, invariance, variance, covariance = vicreg_loss(
            a,
            b,
            invariance_weight=self.config.invariance_weight,
            variance_weight=self.config.variance_weight,
            covariance_weight=self.config.covariance_weight,
        )
        parts = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return loss, parts
