"""FixMatch on reliable samples: some images are taken to be labelled, all others follow.

Sources: Niu et al., "SPICE", IEEE TIP 2022 (the choice of reliable samples, and FixMatch as the
last stage); Sohn et al., "FixMatch", NeurIPS 2020. An image is reliable where its neighbours are in
its cluster and it is confident; every cluster then has as many reliable images as the one with the
fewest. Both sorts come from the same batches, in the share that they have of all images, where
SPICE draws one labelled image for seven others.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scan_tf import models
from scan_tf.config import OptimizerConfig, SelfLabelConfig
from scan_tf.errors import NothingLearned
from scan_tf.lazy import tf
from scan_tf.methods.averages import Averages
from scan_tf.methods.task import Batch, SelfLabel, View
from scan_tf.settings.schema import setting


@dataclasses.dataclass(frozen=True)
class Config(SelfLabelConfig):
    """FixMatch's optimiser and constants; SPICE's choice of samples."""

    name: str = "fixmatch"
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.03, nesterov=True, l2=5e-4, schedule="cosine", schedule_per="step"
    )
    agreement: float = setting(
        0.9, low=0, high=1, help="share of its neighbours in the cluster of a reliable image"
    )
    confidence: float = setting(
        0.99, low=0, high=1, help="confidence that a reliable image must exceed"
    )
    balanced: bool = setting(
        True, help="as many reliable images of each cluster, the most confident"
    )
    threshold: float = setting(
        0.95, low=0, high=1, help="confidence from which on an image teaches its strong view"
    )
    weight: float = setting(1.0, low=0, help="of the images that are not labelled")
    ema: float = setting(
        0.999,
        low=0,
        high=1,
        help="decay of the moving average of the weights that is kept in the end, less at the "
        "start of a short training; 0: none",
    )


class Method(SelfLabel):
    """Fine-tunes the backbone and its one remaining head.

    Attributes:
        labels: int64 [N], the clusters of the reliable images, -1 for the others; made by `begin`.
    """

    needs_clustering = True
    cached = False
    passes = 2

    def __init__(self, config: Config, backbone: models.Backbone, heads: models.ClusterHeads):
        self.config = config
        self.heads = heads
        self.networks = {"backbone": backbone, "heads": heads}
        self.views = {"weak": View("weak"), "strong": View(config.augmentation)}
        self.averages = Averages(self.networks, config.ema, warm_up=True)
        self.labels: tf.Variable | None = None

    def begin(self, probs: np.ndarray, neighbors: np.ndarray) -> None:
        """Choose the reliable images. Raises NothingLearned where there is none."""
        config = self.config
        chosen = reliable(
            probs,
            neighbors[:, 1:],
            agreement=config.agreement,
            confidence=config.confidence,
            balanced=config.balanced,
        )
        if (chosen < 0).all():
            raise NothingLearned(
                f"selflabel: no image is reliable: none is more confident than "
                f"{config.confidence} with {config.agreement:.0%} of its neighbours in its "
                "cluster. Lower selflabel.confidence or selflabel.agreement."
            )
        sizes = np.bincount(chosen[chosen >= 0], minlength=probs.shape[1])
        print(
            f"  {sizes.sum():,} of {len(probs):,} images are reliable, {sizes.min():,} to "
            f"{sizes.max():,} of each cluster"
        )
        self.labels = tf.Variable(chosen, trainable=False, name="labels", dtype=tf.int64)

    @property
    def extra_state(self) -> list[Any]:
        """The labels, and the moving averages."""
        return [*([] if self.labels is None else [self.labels]), *self.averages.variables]

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Cross-entropy of the reliable images, and of the strong views of the confident ones."""
        both = tf.concat([batch["weak"], batch["strong"]], axis=0)
        logits = tf.cast(self.heads(self.features(both))[0], tf.float32)
        weak, strong = tf.split(logits, 2)
        labels = tf.gather(self.labels, batch["index"])
        parts = fixmatch_loss(weak, strong, labels, self.config.threshold)
        supervised, unsupervised, confident = parts
        loss = supervised + self.config.weight * unsupervised
        return loss, {
            "supervised": supervised,
            "unsupervised": unsupervised,
            "confident": confident,
            "reliable": tf.reduce_mean(tf.cast(labels >= 0, tf.float32)),
        }

    def after_update(self, batch: Batch) -> None:
        """Move the averages."""
        self.averages.follow()

    def account(self, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """How many images were reliable, and how many confident."""
        first, last = rows[0]["confident"], rows[-1]["confident"]
        print(f"  confident: {first:.1%} at first, {last:.1%} at last")
        found = [] if self.labels is None else self.labels.numpy()
        count = int((np.asarray(found) >= 0).sum())
        return {"reliable": count, "confident_first": first, "confident_last": last}

    def as_finished(self) -> contextlib.AbstractContextManager[None]:
        """Within it the averages are in place of the weights."""
        return self.averages.in_place()

    def finish(self) -> None:
        """Put the averages in place of the weights."""
        self.averages.put()


def reliable(
    probs: np.ndarray,
    near: np.ndarray,
    *,
    agreement: float = 0.9,
    confidence: float = 0.99,
    balanced: bool = True,
) -> np.ndarray:
    """The images whose cluster is taken for a label (SPICE, section 3.3).

    Args:
        probs: float [N,C].
        near: int [N,K], the neighbours of each image, without itself.
        agreement: share of them that must be in its cluster, 0..1.
        confidence: that must be exceeded, 0..1.
        balanced: cut every cluster to the size of the smallest that has any, the most confident.

    Returns:
        int64 [N]: the cluster, -1 where the image is not reliable.
    """
    clusters, sure = probs.argmax(axis=1), probs.max(axis=1)
    same = (clusters[near] == clusters[:, None]).mean(axis=1)
    rows = np.flatnonzero((same >= agreement) & (sure > confidence))
    labels = np.full(len(probs), -1, np.int64)
    groups = [rows[clusters[rows] == c] for c in np.unique(clusters[rows])]
    fewest = min(map(len, groups), default=0)
    for group in groups:
        count = fewest if balanced else len(group)
        kept = group[np.argsort(-sure[group], kind="stable")[:count]]
        labels[kept] = clusters[kept]
    return labels


def fixmatch_loss(
    weak: tf.Tensor, strong: tf.Tensor, labels: tf.Tensor, threshold: float = 0.95
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """FixMatch's two terms (equations 3 and 4).

    Args:
        weak: logits f32 [B,C] of the weak views.
        strong: logits f32 [B,C] of the strong views.
        labels: int [B], -1: none.
        threshold: confidence of the weak view from which on its cluster is the strong one's target.

    Returns:
        The mean cross-entropy of the weak views that have a label, 0 where none has; the mean over
        all images, those that are not confident counting 0, of that of the strong views; the share
        of the confident ones. f32 scalars.
    """
    labelled = tf.cast(labels >= 0, tf.float32)
    entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), weak)
    supervised = tf.math.divide_no_nan(tf.reduce_sum(labelled * entropies), tf.reduce_sum(labelled))
    probs = tf.stop_gradient(tf.nn.softmax(weak))
    confident = tf.cast(tf.reduce_max(probs, -1) >= threshold, tf.float32)
    targets = tf.argmax(probs, -1)
    entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, strong)
    return supervised, tf.reduce_mean(confident * entropies), tf.reduce_mean(confident)
