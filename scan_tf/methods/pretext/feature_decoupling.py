"""Feature decoupling: half of the feature tells rotations apart, the other half only images.

Source: Feng, Xu and Tao, "Self-Supervised Representation Learning by Rotation Feature
Decoupling", CVPR 2019. The views are SimCLR's; the paper's have crop and flip alone
(`augment.jitter_probability: 0`, `augment.grayscale_probability: 0`). All rotations count alike:
the paper weights them by a RotNet trained before, in the last 35 of its 245 epochs.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from scan_tf import models
from scan_tf.config import OptimizerConfig, PretextConfig
from scan_tf.lazy import tf
from scan_tf.methods.losses import rotation_cross_entropy
from scan_tf.methods.memory import MemoryBank
from scan_tf.methods.pretext.rotnet import rotations
from scan_tf.methods.task import Batch, Pretext, View
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(PretextConfig):
    """RotNet's schedule, as every image is seen in four rotations; the paper's loss."""

    name: str = "feature_decoupling"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(128, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.1, nesterov=True, l2=5e-4, schedule="cosine"
    )
    temperature: float = setting(0.07, above=0, help="divides the similarities")
    momentum: float = setting(0.5, low=0, high=1, help="of the memory")
    negatives: int | None = setting(
        None,
        low=1,
        help="images that each one is told from, drawn anew in every step; null: all (the paper: "
        "4,096)",
    )
    feature: Literal["whole", "invariant"] = setting(
        "whole", help="which part neighbours are found by"
    )


class Method(Pretext):
    """Of a feature [B,D] the first D/2 are the rotation's, the others the image's.

    Attributes:
        bank: what is remembered of every image; saved in checkpoints, not with the weights.
        probe: a classifier of rotations on the image's half, which teaches the backbone nothing:
            how much that half still knows of them.
    """

    views = {"image": View("simclr")}

    passes = 4
    projects = True

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.half = backbone.feature_dim // 2
        rest = backbone.feature_dim - self.half
        self.head = models.MLP((self.half, 4), name="rotation_head")
        self.probe = models.MLP((rest, 4), name="probe")
        self.projector = models.MLP((rest, projection_dim), name="projector", unit=True)
        self.networks = {
            "backbone": backbone,
            "rotation_head": self.head,
            "probe": self.probe,
            "projector": self.projector,
        }
        if config.feature == "invariant":
            self.embedding = "invariant half"
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
        """Rotation, invariance and instance terms, each weighted by 1 (section 3).

        `rotation_acc` should come near to 1, `invariant_rotation_acc` near to 1/4: where both
        are high, the halves are not apart.
        """
        count = tf.shape(batch["index"])[0]
        features = self.backbone(rotations(batch["image"]), training=True)
        labels = tf.repeat(tf.range(4), count)
        logits = self.head(features[:, : self.half])
        invariant = features[:, self.half :]
        probed = self.probe(tf.stop_gradient(invariant))
        turned = tf.reshape(invariant, [4, count, invariant.shape[-1]])
        mean = tf.reduce_mean(turned, 0)
        found = self.bank.loss(self.projector(mean), batch["index"])
        instance, metrics, self._seen = found
        parts = {
            "rotation": rotation_cross_entropy(logits, labels),
            "invariance": tf.reduce_mean((turned - tf.stop_gradient(mean)) ** 2),
            "instance": instance,
        }
        loss = tf.add_n([*parts.values(), rotation_cross_entropy(probed, labels)])
        accuracies = {
            "rotation_acc": _accuracy(logits, labels),
            "invariant_rotation_acc": _accuracy(probed, labels),
        }
        return loss, {**parts, **accuracies, **metrics}

    def after_update(self, batch: Batch) -> None:
        """Remember the rows of this batch, made in `loss`."""
        seen, self._seen = self._seen, None
        self.bank.after_update(batch["index"], seen)

    def project(self, features: tf.Tensor) -> tf.Tensor:
        """The projection of the invariant half, float32 `[B, P]`, unit rows."""
        return super().project(features[:, self.half :])

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """The backbone feature or its invariant half, float32 `[B, D]` or `[B, D/2]`, unit rows."""
        features = self.backbone.embed(images)
        kept = features if self.config.feature == "whole" else features[:, self.half :]
        return tf.math.l2_normalize(kept, axis=-1)


def _accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
    return tf.reduce_mean(tf.cast(hits, tf.float32))
