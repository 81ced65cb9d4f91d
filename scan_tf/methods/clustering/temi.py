"""TEMI: heads on frozen features, taught by their own moving average on pairs of neighbours.

Source: Adaloglou et al., "Exploring the Limits of Deep Image Clustering using Pretrained Models",
BMVC 2023 (arXiv 2303.17896), and its code. Each image is seen with one of its neighbours, never
with itself. The published momentum of the teacher, 0.996, is for thousands of steps: a short run
needs one that follows within tens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scan_tf import models
from scan_tf.config import OptimizerConfig, ScanConfig
from scan_tf.lazy import tf
from scan_tf.methods.losses import temi_loss
from scan_tf.methods.task import Batch, Clustering
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(ScanConfig):
    """Heads alone, on features that stay as they are."""

    name: str = "temi"
    freeze_backbone: bool = setting(True, help="train the heads alone, as in the paper")
    optimizer: OptimizerConfig = OptimizerConfig(
        lr=1e-2, l2=0.0, schedule="cosine", schedule_per="step"
    )
    momentum: float = setting(
        0.95, low=0, high=1, help="of the teacher; the paper's 0.996 needs thousands of steps"
    )
    beta: float = setting(0.6, above=0, high=1, help="exponent of the loss (equation 8)")
    mlp: bool = setting(
        False, help="two hidden layers, of 512 and 256, in each head, as in the paper"
    )


class Method(Clustering):
    """Student heads, and their teacher.

    Attributes:
        teacher: the moving average of each variable of the heads.
        prior: f32 [H,C], running mean of the teacher's probabilities.
    """

    config: Config
    draws_itself = False

    def __init__(
        self,
        config: Config,
        backbone: models.Backbone,
        heads: models.CosineHeads,
        *,
        cached: bool = False,
    ):
        super().__init__(config, backbone, heads, cached=cached)
        self.teacher = [
            tf.Variable(v, trainable=False, name=f"teacher/{v.path}") for v in heads.variables
        ]
        even = tf.fill([heads.num_heads, heads.num_clusters], 1 / heads.num_clusters)
        self.prior = tf.Variable(even, trainable=False, name="prior")
        self._new_prior: Any = None

    @classmethod
    def new_heads(
        cls, config: Any, feature_dim: int, num_heads: int, num_clusters: int
    ) -> models.CosineHeads:
        """Heads whose logits are cosines over the paper's temperature of 0.1."""
        hidden = (512, 256) if config.mlp else ()
        heads = models.CosineHeads(num_heads, num_clusters, hidden=hidden)
        heads.build((None, feature_dim))
        return heads

    @property
    def extra_state(self) -> list[Any]:
        """The teacher and the prior."""
        return [*self.teacher, self.prior]

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Sum of the heads' losses, which Adam scales for each by itself; the mean is logged."""
        views = [self.features(batch[name]) for name in ("anchor", "neighbor")]
        students = self.heads(views[0]), self.heads(views[1])
        teachers = self._teach(views[0]), self._teach(views[1])
        loss, self._new_prior = temi_loss(students, teachers, self.prior, self.config.beta)
        return tf.reduce_sum(loss), {"total": tf.reduce_mean(loss)}

    def after_update(self, batch: Batch) -> None:
        """Move the teacher towards the students, and store the prior made in `loss`."""
        for old, new in zip(self.teacher, self.heads.variables, strict=True):
            old.assign(new + self.config.momentum * (old - new))
        prior, self._new_prior = self._new_prior, None
        self.prior.assign(prior)

    def _teach(self, features: tf.Tensor) -> tf.Tensor:
        logits, _ = self.heads.stateless_call(self.teacher, [], features)
        return logits
