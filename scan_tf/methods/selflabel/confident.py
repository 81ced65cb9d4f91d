"""The self-label stage: confident predictions become labels of strongly augmented images.

Source: Van Gansbeke et al., ECCV 2020, section 2.3. The weak forward pass has no gradient but
runs in training mode, before the strong one (official code). A batch without a confident image
makes no step; it is counted in the metric `skipped`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from scan_tf import models
from scan_tf.config import SelfLabelConfig
from scan_tf.errors import NothingLearned
from scan_tf.lazy import tf
from scan_tf.methods.averages import Averages
from scan_tf.methods.losses import confident_cross_entropy
from scan_tf.methods.task import Batch, SelfLabel, View
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(SelfLabelConfig):
    """The paper's settings."""

    name: str = "confident"
    threshold: float = setting(
        0.99, low=0, high=1, help="confidence that a label must exceed to be learnt from"
    )
    balanced: bool = setting(True, help="weight each class by the inverse of its share")
    ema: float = setting(
        0.0,
        low=0,
        high=1,
        help="decay of the moving average of the weights that is kept in the end; 0: none",
    )


class Method(SelfLabel):
    """Fine-tunes the backbone and its one remaining head."""

    cached = False

    def __init__(self, config: Config, backbone: models.Backbone, heads: models.ClusterHeads):
        self.config = config
        self.heads = heads
        self.networks = {"backbone": backbone, "heads": heads}
        self.views = {"weak": View("none"), "strong": View(config.augmentation)}
        self.averages = Averages(self.networks, config.ema)

    @property
    def extra_state(self) -> list[Any]:
        """The moving averages, where `ema` is on."""
        return self.averages.variables

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Cross-entropy on the strong view against the confident labels of the weak one."""
        weak = tf.stop_gradient(self._logits(batch["weak"]))
        strong = self._logits(batch["strong"])
        loss, confident = confident_cross_entropy(
            weak, strong, self.config.threshold, balanced=self.config.balanced
        )
        count = tf.cast(tf.shape(weak)[0], tf.float32)
        skipped = tf.cast(tf.equal(confident, 0), tf.float32)
        return loss, {"confident": tf.cast(confident, tf.float32) / count, "skipped": skipped}

    def after_update(self, batch: Batch) -> None:
        """Move the averages, where `ema` is on."""
        self.averages.follow()

    def account(self, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """How many samples were confident, and whether the stage was still improving at its end."""
        confident = [row["confident"] for row in rows]
        if max(confident) == 0:
            raise NothingLearned(
                f"selflabel.threshold: no image was ever more confident than "
                f"{self.config.threshold}, so that there is no label to learn from. Lower it, or "
                "train the scan stage for longer."
            )
        tail = max(1, len(confident) // 5)
        before = confident[-2 * tail : -tail] or confident
        gain = sum(confident[-tail:]) / tail - sum(before) / len(before)
        plateaued = gain < 0.005
        note = "the number of confident images has stopped growing"
        note = note if plateaued else "still growing"
        print(f"  confident: {confident[0]:.1%} at first, {confident[-1]:.1%} at last; {note}")
        return {
            "confident_first": confident[0],
            "confident_last": confident[-1],
            "skipped_batches": sum(row["skipped"] for row in rows) / len(rows),
            "plateaued": plateaued,
        }

    def finish(self) -> None:
        """Put the averages in place of the weights, where `ema` is on."""
        self.averages.put()

    def as_finished(self) -> contextlib.AbstractContextManager[None]:
        """Within it the averages are in place of the weights, where `ema` is on."""
        return self.averages.in_place()

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        return self.heads(self.features(images))[0]
