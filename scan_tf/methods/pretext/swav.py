"""SwAV: what one view is assigned to among prototypes is told from the other views.

Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
NeurIPS 2020. The assignments of a batch are made to use all prototypes alike, so that no image has
to be pushed away from another. Small crops of an image (multi-crop, section 3.2) tell the
assignments of the two large ones. The queue of earlier features, which the paper has for batches
of fewer images than prototypes, is left out: there are few prototypes here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scan_tf import models
from scan_tf.config import OptimizerConfig
from scan_tf.errors import ConfigError
from scan_tf.lazy import tf
from scan_tf.methods.pretext_losses import spread
from scan_tf.methods.swav_loss import swav_loss
from scan_tf.methods.task import Batch, Pretext, View
from scan_tf.methods.two_views import TwoViewConfig
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(TwoViewConfig):
    """The paper's constants (section 4); SGD in place of LARS, fewer prototypes than its 3,000."""

    name: str = "swav"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.12, l2=5e-4, schedule="cosine", final_fraction=0.0
    )
    temperature: float = setting(0.1, above=0, help="divides the scores that tell")
    epsilon: float = setting(
        0.05, above=0, help="divides the scores that are assigned (section 3.1)"
    )
    sinkhorn_steps: int = setting(3, low=1, help="rounds that make the assignments balanced")
    prototypes: int = setting(512, low=2, help="how many there are (the paper: 3,000)")
    frozen_epochs: float = setting(
        1.0, low=0, help="epochs at the start in which the prototypes stay (official code: 1)"
    )
    hidden: int = setting(2048, low=1, help="hidden width of the projector (the paper: 2048)")
    dim: int = setting(128, low=2, help="width of what is compared with prototypes")
    local_crops: int = setting(
        0, low=0, help="small crops beside the two views (the paper: 6 of 96 pixels)"
    )
    local_size: int = setting(16, low=2, help="side of the small crops, pixels")
    local_scale: tuple[float, float] = setting(
        (0.05, 0.14), low=0, high=1, help="share of the image that a small crop shows, least, most"
    )

    def __post_init__(self) -> None:
        """Check the fields, and that the small crops show something."""
        super().__post_init__()
        low, high = self.local_scale
        if not 0 < low <= high:
            raise ConfigError(f"local_scale: expected 0 < low <= high, got [{low}, {high}].")


class Method(Pretext):
    """Each view goes through the networks by itself, the small crops together.

    Attributes:
        prototypes: [C,P], unit rows; not saved with the weights.
        updates: how many there have been, int64.
    """

    # Small crops cost little beside the large ones.
    passes = 2
    projects = True

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.views = config.views()
        if config.local_crops:
            size, count = config.local_size, config.local_crops
            area = {"area": config.local_scale}
            self.views["local"] = View("simclr", size=size, count=count, options=area)
        dims = (backbone.feature_dim, config.hidden, config.dim)
        self.projector = models.MLP(dims, name="projector")
        self.networks = {"backbone": backbone, "projector": self.projector}
        start = tf.random.normal([config.prototypes, config.dim])
        self.prototypes = tf.Variable(tf.math.l2_normalize(start, axis=-1), name="prototypes")
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.still = round(config.frozen_epochs * max(1, num_images // config.batch_size))

    @property
    def trainable_variables(self) -> list[Any]:
        """The networks', and the prototypes."""
        return [*super().trainable_variables, self.prototypes]

    @property
    def extra_state(self) -> list[Any]:
        """The prototypes, and how many updates there have been."""
        return [self.prototypes, self.updates]

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Equation 2, over all pairs of an assigned view and another; log C at the start.

        `spread` far below 1 tells of collapse.
        """
        projected = {
            name: self.projector(self.backbone(batch[name], training=True), training=True)
            for name in self.views
        }
        fixed = tf.stop_gradient(self.prototypes)
        prototypes = tf.where(self.updates < self.still, fixed, self.prototypes)
        others = []
        if self.config.local_crops:
            others = tf.split(projected["local"], self.config.local_crops)
        loss = swav_loss(
            [projected["a"], projected["b"]],
            prototypes,
            others=others,
            temperature=self.config.temperature,
            epsilon=self.config.epsilon,
            steps=self.config.sinkhorn_steps,
        )
        return loss, {"spread": spread(projected["a"])}

    def after_update(self, batch: Batch) -> None:
        """Bring the prototypes back to length 1."""
        self.prototypes.assign(tf.math.l2_normalize(self.prototypes, axis=-1))
        self.updates.assign_add(1)
