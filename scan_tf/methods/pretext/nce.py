"""Instance discrimination: every image is a class of its own, recognised by a memory of it.

Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
CVPR 2018. The views are SimCLR's; the authors' CIFAR script has no flip and jitters always
(`augment.flip: 0`, `augment.jitter_probability: 1`). Without the proximal term (section 3.3).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scan_tf import models
from scan_tf.config import OptimizerConfig, PretextConfig
from scan_tf.lazy import tf
from scan_tf.methods.memory import MemoryBank
from scan_tf.methods.task import Batch, Pretext, View
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(PretextConfig):
    """The authors' settings for CIFAR-10, at four times batch and rate; cosine for steps."""

    name: str = "nce"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig("sgd", lr=0.12, l2=5e-4, schedule="cosine")
    temperature: float = setting(0.1, above=0, help="divides the similarities")
    momentum: float = setting(0.5, low=0, high=1, help="of the memory")
    negatives: int | None = setting(
        None,
        low=1,
        help="images that each one is told from, drawn anew in every step (4,096 on ImageNet); "
        "null: all of them, which is better and no dearer up to some 200,000 images",
    )


class Method(Pretext):
    """One view per image and step, and one linear layer to unit vectors.

    Attributes:
        bank: what is remembered of every image; saved in checkpoints, not with the weights.
    """

    views = {"image": View("simclr")}
    projects = True
    embedding = "projection"

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        dims = (backbone.feature_dim, projection_dim)
        self.projector = models.MLP(dims, name="projector", unit=True)
        self.networks = {"backbone": backbone, "projector": self.projector}
        self.bank = MemoryBank(
            num_images,
            projection_dim,
            temperature=config.temperature,
            momentum=config.momentum,
            negatives=config.negatives,
        )
        self._seen: Any = None

    @property
    def extra_state(self) -> list[tf.Variable]:
        """The memory, with Z of the estimation once that is known."""
        return self.bank.variables

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Cross-entropy of the image among all N (equation 2), or its estimate (section 3.2)."""
        rows = self.projector(self.backbone(batch["image"], training=True))
        loss, metrics, self._seen = self.bank.loss(rows, batch["index"])
        return loss, metrics

    def after_update(self, batch: Batch) -> None:
        """Remember the rows of this batch, made in `loss`."""
        seen, self._seen = self._seen, None
        self.bank.after_update(batch["index"], seen)

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """The projection, float32 `[B, P]`, rows of unit length."""
        return self.projector(self.backbone.embed(images))
