"""Pretrained features: nothing is learned, a network that somebody trained before is used frozen.

The choice for few images or little time; the field's highest scores on small images have been made
on such features (TEMI, BMVC 2023). Where the network was trained with labels, as those for
ImageNet are, a clustering of its features is no unsupervised result: the report says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scan_tf import models
from scan_tf.config import ModelConfig, PretextConfig
from scan_tf.lazy import tf
from scan_tf.methods.task import Batch, Pretext
from scan_tf.settings.schema import setting

# Below this side networks that were trained on photos see little.
_SMALLEST = 128


@dataclasses.dataclass(frozen=True)
class Config(PretextConfig):
    """Epochs, batch size and optimiser are those of any pretext and do nothing here."""

    name: str = "pretrained"
    weights: str = setting(
        "lite0",
        help="lite0, lite1 or lite2 (EfficientNet-Lite, of the extra lite), keras:NAME (Keras "
        "Applications), hub:PRESET (KerasHub), or a file: .keras, the folder of a SavedModel, a "
        "state dict of PyTorch, or features computed elsewhere: .npy, .npz or .parquet",
    )
    image_size: int | None = setting(
        None,
        low=32,
        high=1024,
        help="side to which the network resizes images; null: theirs, and at least 128",
    )
    dim: int | None = setting(
        128, low=2, help="principal components that are kept; null: all features"
    )
    frozen: bool = setting(
        True,
        help="false: scan (unless scan.freeze_backbone) and selflabel train the network further",
    )


class Method(Pretext):
    """No view and no loss; `fit` sets the constants that follow the network."""

    views = {}

    def __init__(
        self, config: Config, backbone: models.Frozen, *, projection_dim: int, num_images: int
    ):
        self.config = config
        self.networks = {"backbone": backbone}

    @classmethod
    def bring_backbone(
        cls, config: Any, model: ModelConfig, *, num_images: int, **images: Any
    ) -> models.Frozen:
        """The pretrained network, at least as large as the images."""
        size = config.image_size or max(_SMALLEST, images["image_size"])
        network = models.load_pretrained(
            config.weights,
            size,
            dtype=images["dtype"],
            model=model,
            mean=images["mean"],
            std=images["std"],
        )
        # So few images span no more directions.
        dim = None if config.dim is None else max(1, min(config.dim, num_images - 1))
        size = images["image_size"]
        return models.Frozen(network, image_size=size, dim=dim, tuned=not config.frozen)

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """There is nothing to minimise."""
        raise TypeError("pretrained features are not trained")
