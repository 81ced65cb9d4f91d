"""MoCo v2: a view of an image finds the other one among many, those of earlier batches included.

Sources: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020
(algorithm 1); Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020 (the
projection head with a hidden layer, temperature 0.2, the cosine schedule). The views are SimCLR's
as SCAN has them, without the blur of the second paper. BatchNorm is not shuffled: that exchanges
images between devices, and there is one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scan_tf import models
from scan_tf.config import OptimizerConfig, PretextConfig
from scan_tf.errors import ConfigError
from scan_tf.lazy import keras, tf
from scan_tf.methods.losses import info_nce
from scan_tf.methods.task import Batch, Pretext, View
from scan_tf.schema import setting

# He et al., section 4: the queue on ImageNet.
_QUEUE_SIZE = 65_536


@dataclasses.dataclass(frozen=True)
class Config(PretextConfig):
    """The settings of Chen et al. for 200 epochs."""

    name: str = "moco"
    epochs: int = setting(200, low=1)
    batch_size: int = setting(256, low=2)
    optimizer: OptimizerConfig = OptimizerConfig(
        "sgd", lr=0.03, schedule="cosine", final_fraction=0.0
    )
    temperature: float = setting(0.2, above=0, help="divides the similarities")
    momentum: float = setting(0.999, low=0, high=1, help="of the key encoder")
    queue_size: int | None = setting(
        None,
        low=2,
        help="keys of earlier batches, in whole batches; null: 65,536, or what fits into half of "
        "the images, so that few images meet a key of themselves",
    )
    hidden: int | None = setting(
        None, low=1, help="width of the projection head; null: as wide as the backbone's feature"
    )

    def __post_init__(self) -> None:
        """Check the fields, and that the queue holds whole batches."""
        super().__post_init__()
        if self.queue_size is not None and self.queue_size % self.batch_size:
            raise ConfigError(
                f"queue_size: expected a multiple of batch_size={self.batch_size}, "
                f"got {self.queue_size}."
            )


class Method(Pretext):
    """The query encoder learns; the key encoder, without gradient, follows it slowly.

    Attributes:
        key_encoder: for each network its trainable and its other variables, as the key encoder
            has them. It has BatchNorm statistics of its own and is not saved with the weights.
        queue: float32 `[Q, P]`, unit rows, the oldest first; random ones at the start.
    """

    views = {"query": View("simclr"), "key": View("simclr")}
    passes = 1 + 1 / 3

    def __init__(
        self, config: Config, backbone: models.Backbone, *, projection_dim: int, num_images: int
    ):
        self.config = config
        hidden = config.hidden or backbone.feature_dim
        self.projector = models.ProjectionHead(projection_dim, hidden)
        self.projector(tf.zeros([1, backbone.feature_dim]))
        self.networks = {"backbone": backbone, "projector": self.projector}
        self.key_encoder = {
            name: (_copies(network.trainable_variables), _copies(network.non_trainable_variables))
            for name, network in self.networks.items()
        }
        rows = tf.random.normal([queue_size(config, num_images), projection_dim])
        self.queue = tf.Variable(tf.math.l2_normalize(rows, axis=-1), trainable=False, name="queue")
        self._keys: Any = None

    @property
    def extra_state(self) -> list[Any]:
        """The key encoder and the queue."""
        encoder = [v for parts in self.key_encoder.values() for part in parts for v in part]
        return [*encoder, self.queue]

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """InfoNCE (He et al., equation 1): the key of the same image against those of the queue."""
        queries = self.projector(self.backbone(batch["query"], training=True))
        self._keys = keys = self._encode_keys(batch["key"])
        loss, similarity = info_nce(queries, keys, self.queue, self.config.temperature)
        return loss, {"positive_similarity": similarity}

    def after_update(self, batch: Batch) -> None:
        """Move the key encoder and put the keys of this batch, made in `loss`, into the queue."""
        for name, (weights, _) in self.key_encoder.items():
            for key, query in zip(weights, self.networks[name].trainable_variables, strict=True):
                key.assign(query + self.config.momentum * (key - query))
        keys, self._keys = self._keys, None
        self.queue.assign(tf.concat([self.queue[keys.shape[0] :], keys], axis=0))

    def _encode_keys(self, images: tf.Tensor) -> tf.Tensor:
        """Unit keys `[B, P]` of the key encoder, normalised by the batch, without gradient."""
        weights, statistics = self.key_encoder["backbone"]
        features, after = self.backbone.stateless_call(weights, statistics, images, training=True)
        for variable, value in zip(statistics, after, strict=True):
            variable.assign(value)
        keys, _ = self.projector.stateless_call(*self.key_encoder["projector"], features)
        return tf.stop_gradient(keys)


def queue_size(config: Config, num_images: int) -> int:
    """How many keys the queue holds. Raises ConfigError when there are more than images."""
    if config.queue_size is None:
        batches = min(_QUEUE_SIZE, num_images // 2) // config.batch_size
        return max(1, batches) * config.batch_size
    if config.queue_size > num_images:
        raise ConfigError(
            f"pretext.queue_size: expected at most {num_images}, the number of images, got "
            f"{config.queue_size}: every image would meet keys of itself. Try null."
        )
    return config.queue_size


def _copies(variables: list[keras.Variable]) -> list[tf.Variable]:
    return [tf.Variable(v, trainable=False, name=f"key/{v.path}") for v in variables]
