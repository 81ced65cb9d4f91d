"""The choice of epoch and head of the SCAN stage, without labels."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import tensorflow as tf

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import ConfigError, StageError
from scan_tf.evaluation import alarms
from scan_tf.evaluation.metrics import selection_loss
from scan_tf.evaluation.remarks import of_heads
from scan_tf.features.embedding import embed, head_probs
from scan_tf.features.neighbors import mine
from scan_tf.methods.task import Clustering
from scan_tf.models.frozen import Frozen
from scan_tf.models.weights import save_weights
from scan_tf.pipeline import neighbors
from scan_tf.pipeline.run_dir import Run

_log = logging.getLogger(__name__)
# Share by which the consistency has to fall for the training to be worth going on with.
_SETTLED = 0.01


@dataclasses.dataclass(frozen=True)
class Validation:
    """Images to select on.

    Attributes:
        images: n of them.
        features: float32 `[n, P]`, those by which neighbours were found.
        indices: int32 `[n, k+1]`, their neighbours among themselves.
        held_out: bool `[N]`, which of the training images are kept from training.
    """

    images: ImageSet
    features: np.ndarray
    indices: np.ndarray
    held_out: np.ndarray


class Best(TypedDict):
    """Epoch and head that are best so far, and the loss by which they were chosen."""

    epoch: int
    head: int
    total: float
    consistency: float
    entropy: float


class Selection:
    """Chooses epoch and head without labels, by the lowest selection loss on a validation set.

    Args:
        run: the run.
        task: the SCAN task in training.
        checked: what to score on.
        path: where the weights of the best so far are kept.

    Attributes:
        record: epoch, head, total, consistency and entropy of the best so far, and the number of
            clusters that each head `used` then; with `scan.patience` also settling, the mean
            consistency of the heads in every epoch.
    """

    def __init__(self, run: Run, task: Clustering, checked: Validation, path: Path):
        self.run, self.task, self.checked, self.path = run, task, checked, path
        self.record: dict[str, Any] = {}
        self._collapsed = False
        frozen = isinstance(task.backbone, Frozen)
        self._features: np.ndarray | None = checked.features if frozen else None
        # Compiled once, not again after every epoch.
        self._network = tf.function(
            task.backbone.embed, jit_compile=run.device.jit_step, autograph=False
        )

    def __call__(self, epoch: int) -> dict[str, float]:
        """Score every head; keep the weights when one is the best so far."""
        probs = head_probs(self.task.networks["heads"], self._embed())
        scores = [selection_loss(p, self.checked.indices) for p in probs]
        head = int(np.argmin([s[0] for s in scores]))
        total, consistency, entropy = scores[head]
        used = [len(np.unique(p.argmax(axis=1))) for p in probs]
        if (used[head] == 1) > self._collapsed:
            _log.warning("scan: epoch %d: all images are in one cluster of the best head.", epoch)
        self._collapsed = used[head] == 1
        if self.task.config.patience:
            mean = float(np.mean([s[1] for s in scores]))
            self.record["settling"] = [*self.record.get("settling", []), mean]
        if "total" not in self.record or total < self.record["total"]:
            self.record.update(
                epoch=epoch, head=head, total=total, consistency=consistency, entropy=entropy
            )
            self.record["used"] = used
            save_weights(self.path, self.task.networks, extra=dict(self.best))
        return {
            "selection": total,
            "selection_best": self.record["total"],
            "clusters_used": used[head],
            "dead_heads": sum(count == 1 for count in used),
            **alarms.look(probs[head], self.checked.indices[:, 1:]),
        }

    @property
    def settled(self) -> bool:
        """Whether the consistency has not fallen by 1 % in the last `scan.patience` epochs."""
        return settled(self.record.get("settling", []), self.task.config.patience)

    @property
    def best(self) -> Best:
        """The record, once an epoch has been scored."""
        return cast(Best, {key: self.record[key] for key in Best.__annotations__})

    @property
    def warnings(self) -> list[str]:
        """What stands out of the heads, in sentences; checkpoints of older versions do not tell."""
        used = self.record.get("used")
        return of_heads(used, self.record["head"], self.run.num_clusters) if used else []

    def _embed(self) -> np.ndarray:
        """Features of the validation images; a frozen backbone's never change."""
        network = self.task.backbone
        moves = network.trainable_variables and not self.task.config.freeze_backbone
        if self._features is None or moves:
            images = self.checked.images
            self._features = embed(self._network, images, **self.run.inference(None))
        return self._features


def settled(consistency: Sequence[float], patience: int) -> bool:
    """Whether the lowest of the last `patience` values is less than 1 % below those before.

    With a patience of 0, or no values before them, it is not.
    """
    if not patience or len(consistency) <= patience:
        return False
    return min(consistency[-patience:]) > (1 - _SETTLED) * min(consistency[:-patience])


def validation(run: Run) -> Validation:
    """What epoch and head are selected on. Raises StageError where there is no such split."""
    config, train = run.config.scan, run.train_images
    embedded = neighbors.features(run)
    out = held_out(run)
    images, rows = train, embedded["train"]
    if config.selection == "test":
        test = run.images("test")
        if test is None:
            raise StageError(f"scan.selection: 'test', but '{train.name}' has no test split.")
        images, rows = test, embedded["test"]
    elif config.selection == "heldout":
        images, rows = train.subset(out), rows[out]
    settings = dataclasses.replace(run.config.neighbors, index="auto")
    try:
        mined = mine(rows, settings, k=settings.k_validation, seed=run.seed("scan"))
    except ConfigError as error:
        raise ConfigError(f"neighbors.k_validation: {error}") from error
    return Validation(images, rows, mined.indices, out)


def held_out(run: Run) -> np.ndarray:
    """Which of the training images SCAN does not learn from, bool [N]."""
    config, count = run.config.scan, len(run.train_images)
    out = np.zeros(count, bool)
    if config.selection == "heldout":
        size = round(config.heldout_fraction * count)
        random = np.random.default_rng(run.seed("scan"))
        out[random.choice(count, size, replace=False)] = True
    return out
