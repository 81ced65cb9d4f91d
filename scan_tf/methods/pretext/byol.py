"""BYOL: predict what a slowly following copy of the network makes of the other view.

Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020. No image is pushed away from any
other; what keeps the features from all becoming the same are the predictor, the batch
normalisation in the heads and the slowness of the target.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from scan_tf import models
from scan_tf.config import OptimizerConfig
from scan_tf.lazy import tf
from scan_tf.methods.momentum import MomentumEncoder
from scan_tf.methods.pretext_losses import byol_loss, spread
from scan_tf.methods.task import Batch, Pretext
from scan_tf.methods.two_views import TwoViewConfig
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(TwoViewConfig):
    """SGD for CIFAR at batch 512 in place of LARS, and heads of a quarter of the paper's width."""

    name: str = "byol"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.24, l2=5e-4, schedule="cosine", final_fraction=0.0
    )
    momentum: float = setting(0.99, low=0, high=1, help="of the target at the start")
    momentum_schedule: Literal["cosine", "constant"] = setting(
        "cosine", help="whether the momentum goes to 1 along a cosine (section 3.2) or stays"
    )
    hidden: int = setting(
        1024, low=1, help="hidden width of projector and predictor (the paper: 4096)"
    )
    dim: int = setting(
        256, low=2, help="width of what projector and predictor give (the paper: 256)"
    )


class Method(Pretext):
    """Each view goes through the networks by itself, as in the official code.

    Attributes:
        target: backbone and projector that follow the trained ones; not saved with the weights.
        updates: how many there have been, int64.
    """

    passes = 2 + 2 / 3
    projects = True

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.views = config.views()
        dims = (config.hidden, config.dim)
        self.projector = models.MLP((backbone.feature_dim, *dims), name="projector")
        self.predictor = models.MLP((config.dim, *dims), name="predictor")
        followed = {"backbone": backbone, "projector": self.projector}
        self.networks = {**followed, "predictor": self.predictor}
        self.target = MomentumEncoder(followed)
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.total_updates = config.epochs * max(1, num_images // config.batch_size)

    @property
    def extra_state(self) -> list[Any]:
        """The target network, and how far its schedule has come."""
        return [*self.target.variables, self.updates]

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Equation 2 for both orders of the views, added; near 4 at the start, 0 at the least.

        `spread` far below 1, or a loss near 0 within an epoch, tell of collapse.
        """
        projections = {
            name: self.projector(self.backbone(batch[name], training=True), training=True)
            for name in ("a", "b")
        }
        predicted = {k: self.predictor(v, training=True) for k, v in projections.items()}
        loss = byol_loss(predicted["a"], self.target(batch["b"]))
        loss += byol_loss(predicted["b"], self.target(batch["a"]))
        return loss, {"spread": spread(projections["a"])}

    def after_update(self, batch: Batch) -> None:
        """Move the target."""
        self.target.follow(self.momentum())
        self.updates.assign_add(1)

    def momentum(self) -> tf.Tensor:
        """1 - (1 - m)(cos(pi k/K) + 1)/2 after k of K updates, or m itself; float32 scalar."""
        start = tf.constant(self.config.momentum, tf.float32)
        if self.config.momentum_schedule == "constant":
            return start
        done = tf.minimum(1.0, tf.cast(self.updates, tf.float32) / self.total_updates)
        return 1.0 - (1.0 - start) * (tf.cos(math.pi * done) + 1.0) / 2.0
