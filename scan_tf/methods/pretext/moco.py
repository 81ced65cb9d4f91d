"""MoCo v2: a view of an image finds the other one among many, those of earlier batches included.

Sources: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020
(algorithm 1); Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020 (the
projection head with a hidden layer, temperature 0.2, the cosine schedule); He et al.'s official
CIFAR-10 notebook (batch, rate, queue, momentum; the symmetric loss; BatchNorm by groups). The
views are SimCLR's as SCAN has them, without the blur of the second paper unless asked for.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from scan_tf import models
from scan_tf.config import OptimizerConfig
from scan_tf.errors import ConfigError
from scan_tf.lazy import tf
from scan_tf.methods.losses import info_nce
from scan_tf.methods.momentum import MomentumEncoder, grouped_call
from scan_tf.methods.task import Batch, Pretext
from scan_tf.methods.two_views import TwoViewConfig
from scan_tf.settings.schema import setting

# The queue on CIFAR-10 (official notebook); 65,536 on ImageNet (He et al., section 4).
_QUEUE_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Config(TwoViewConfig):
    """The official settings for CIFAR-10, with the head and the temperature of Chen et al."""

    name: str = "moco"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(512, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.06, l2=5e-4, schedule="cosine", final_fraction=0.0
    )
    temperature: float = setting(0.2, above=0, help="divides the similarities")
    momentum: float = setting(0.99, low=0, high=1, help="of the key encoder")
    queue_size: int | None = setting(
        None,
        low=2,
        help="keys of earlier batches, in whole steps; null: 4,096, or what fits into half of the "
        "images, so that few images meet a key of themselves",
    )
    hidden: int | None = setting(
        None, low=1, help="width of the projection head; null: as wide as the backbone's feature"
    )
    symmetric: bool = setting(
        False, help="both views serve as query and as key, at twice the cost; the losses are added"
    )
    batch_norm_groups: int = setting(
        1,
        low=1,
        help="parts of the batch that are normalised apart, other ones for the keys than for the "
        "queries, so that no query can tell its key by the company (He et al., section 3.3, "
        "Shuffling BN; 8 in the notebook)",
    )

    def __post_init__(self) -> None:
        """Check the fields, and that the queue holds whole batches."""
        super().__post_init__()
        if self.queue_size is not None and self.queue_size % self.keys_per_step:
            step = "twice " if self.symmetric else ""
            raise ConfigError(
                f"queue_size: expected a multiple of {step}batch_size={self.batch_size}, "
                f"got {self.queue_size}."
            )
        if self.batch_size % self.batch_norm_groups:
            raise ConfigError(
                f"batch_norm_groups: expected a divisor of batch_size={self.batch_size}, "
                f"got {self.batch_norm_groups}."
            )

    @property
    def keys_per_step(self) -> int:
        """How many keys a step puts into the queue."""
        return self.batch_size * (2 if self.symmetric else 1)


class Method(Pretext):
    """The query encoder learns; the key encoder, without gradient, follows it slowly.

    Attributes:
        key_encoder: backbone and projector that follow those of the queries; it has BatchNorm
            statistics of its own and is not saved with the weights.
        queue: float32 `[Q, P]`, unit rows, the oldest first; random ones at the start.
    """

    passes = 1 + 1 / 3
    projects = True

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.views = config.views("query", "key")
        hidden = config.hidden or backbone.feature_dim
        self.projector = models.ProjectionHead(backbone.feature_dim, hidden, projection_dim)
        self.networks = {"backbone": backbone, "projector": self.projector}
        self.key_encoder = MomentumEncoder(self.networks)
        rows = tf.random.normal([queue_size(config, num_images), projection_dim])
        self.queue = tf.Variable(tf.math.l2_normalize(rows, axis=-1), trainable=False, name="queue")
        self._keys: Any = None

    @property
    def extra_state(self) -> list[Any]:
        """The key encoder and the queue."""
        return [*self.key_encoder.variables, self.queue]

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """InfoNCE (He et al., equation 1): the key of the same image against those of the queue."""
        orders = [("query", "key"), ("key", "query")][: 2 if self.config.symmetric else 1]
        found, keys = [], []
        for query, key in orders:
            queries = self._encode_queries(batch[query])
            keys.append(self._encode_keys(batch[key]))
            found.append(info_nce(queries, keys[-1], self.queue, self.config.temperature))
        self._keys = tf.concat(keys, 0)
        losses, similarities = zip(*found, strict=True)
        return tf.add_n(losses), {"positive_similarity": tf.reduce_mean(similarities)}

    def after_update(self, batch: Batch) -> None:
        """Move the key encoder and put the keys of this batch, made in `loss`, into the queue."""
        self.key_encoder.follow(self.config.momentum)
        keys, self._keys = self._keys, None
        self.queue.assign(tf.concat([self.queue[keys.shape[0] :], keys], axis=0))

    def _encode_queries(self, images: tf.Tensor) -> tf.Tensor:
        """Unit queries `[B, P]`."""
        network, groups = self.backbone, self.config.batch_norm_groups
        weights, statistics = network.trainable_variables, network.non_trainable_variables
        return self.projector(grouped_call(network, weights, statistics, images, groups))

    def _encode_keys(self, images: tf.Tensor) -> tf.Tensor:
        """Unit keys `[B, P]` of the key encoder, normalised by the batch, without gradient."""
        groups = self.config.batch_norm_groups
        if groups == 1:
            return self.key_encoder(images)
        # Batches come in random order: to deal them out one by one, as cards, shuffles them.
        dealt = np.arange(images.shape[0]).reshape(-1, groups).T.ravel()
        keys = self.key_encoder(tf.gather(images, dealt), groups)
        return tf.gather(keys, np.argsort(dealt))


def queue_size(config: Config, num_images: int) -> int:
    """How many keys the queue holds. Raises ConfigError when there are more than images."""
    if config.queue_size is None:
        steps = min(_QUEUE_SIZE, num_images // 2) // config.keys_per_step
        return max(1, steps) * config.keys_per_step
    if config.queue_size > num_images:
        raise ConfigError(
            f"pretext.queue_size: expected at most {num_images}, the number of images, got "
            f"{config.queue_size}: every image would meet keys of itself. Try null."
        )
    return config.queue_size
