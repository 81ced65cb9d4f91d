"""TEMI: heads on frozen features, taught by their own moving average on pairs of neighbours.

Source: Adaloglou et al., "Exploring the Limits of Deep Image Clustering using Pretrained Models",
BMVC 2023 (arXiv 2303.17896), and its code. Each image is seen with one of its neighbours, not with
itself; there is no augmentation. The published momentum of the teacher, 0.996, is for thousands
of steps: a short run needs one that follows within tens.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from scan_tf.heads import CosineHeads
from scan_tf.losses import temi_loss
from scan_tf.task import Batch, Task, View


class TemiTask(Task):
    """Student heads over cached features `[B, D]` of a frozen backbone, and their teacher.

    The neighbours given to the loader are without column 0, the image itself.

    Args:
        backbone: the frozen network the features are of.
        heads: the students, built.
        momentum: of the teacher.
        beta: exponent of the loss.

    Attributes:
        teacher: the moving average of each variable of the heads.
        prior: f32 [H,C], running mean of the teacher's probabilities.
    """

    cached = True

    def __init__(
        self,
        backbone: keras.Model,
        heads: CosineHeads,
        *,
        momentum: float = 0.95,
        beta: float = 0.6,
    ):
        self.heads, self.momentum, self.beta = heads, momentum, beta
        self.networks = {"backbone": backbone, "heads": heads}
        self.views = {"anchor": View("none"), "neighbor": View("none", of="neighbor")}
        self.teacher = [
            tf.Variable(v, trainable=False, name=f"teacher/{v.path}") for v in heads.variables
        ]
        even = tf.fill([heads.num_heads, heads.num_clusters], 1 / heads.num_clusters)
        self.prior = tf.Variable(even, trainable=False, name="prior")
        self._new_prior: Any = None

    @property
    def trainable_variables(self) -> list[Any]:
        """Those of the heads; the backbone is frozen."""
        return list(self.heads.trainable_variables)

    @property
    def extra_state(self) -> list[Any]:
        """The teacher and the prior."""
        return [*self.teacher, self.prior]

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Sum of the heads' losses, which Adam scales for each by itself; the mean is logged."""
        views = batch["anchor"], batch["neighbor"]
        students = self.heads(views[0]), self.heads(views[1])
        teachers = self._teach(views[0]), self._teach(views[1])
        loss, self._new_prior = temi_loss(students, teachers, self.prior, self.beta)
        return tf.reduce_sum(loss), {"total": tf.reduce_mean(loss)}

    def after_update(self, batch: Batch) -> None:
        """Move the teacher towards the students, and store the prior made in `loss`."""
        for old, new in zip(self.teacher, self.heads.variables, strict=True):
            old.assign(new + self.momentum * (old - new))
        prior, self._new_prior = self._new_prior, None
        self.prior.assign(prior)

    def _teach(self, features: tf.Tensor) -> tf.Tensor:
        logits, _ = self.heads.stateless_call(self.teacher, [], features)
        return logits
