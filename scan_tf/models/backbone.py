"""The contract of a backbone: what every other part of the program knows of a network."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from scan_tf.config import ModelConfig
from scan_tf.errors import ConfigError


class Backbone(keras.Model):
    """A network from images to pooled features.

    A subclass sets `feature_dim`, and says how it is called and copied; nothing else in the program
    asks what kind of network it is.

    Args:
        image_size: side S in pixels of the images that it is made for.
        mean: of the three channels of images in 0..1, as the network wants them.
        std: of the three channels.

    Attributes:
        feature_dim: the number D of its features.
    """

    feature_dim: int

    def __init__(
        self,
        *,
        image_size: int,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        name: str,
        dtype: str,
    ):
        super().__init__(name=name, dtype=dtype)
        self.image_size = image_size
        self.mean, self.std = (tuple(map(float, v)) for v in (mean, std))

    @abc.abstractmethod
    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images [B,S,S,3]; `training`: batch statistics."""

    @abc.abstractmethod
    def copy(self, dtype: str) -> Backbone:
        """The same network with the same weights, computing in another Keras dtype policy."""

    def normalise(self, images: tf.Tensor) -> tf.Tensor:
        """(images - mean) / std per channel; float32 [B,S,S,3], images in 0..1."""
        return (images - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """Features f32 [B,D] of images f32 [B,S,S,3] in 0..1, in inference mode."""
        return self(self.normalise(images), training=False)


def build(
    config: ModelConfig,
    *,
    dtype: str,
    image_size: int = 32,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> Backbone:
    """Make the backbone that `config` names, with all its variables.

    Args:
        config: the name of the backbone, the stem and the width.
        dtype: Keras dtype policy, "float32" or "mixed_bfloat16"; variables are float32 in both.
        image_size: side of the images for which it is built.
        mean: per channel, of images in 0..1; the network takes them normalised.
        std: per channel.

    Raises:
        ConfigError: `model.backbone` is the dotted name of a module that cannot be imported, or
            whose `build`, called with these arguments, makes no Backbone.
    """
    name = config.backbone if "." in config.backbone else "scan_tf.models.resnet"
    try:
        make: Any = importlib.import_module(name).build
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"model.backbone: '{name}' is no module with a function build ({error})."
        ) from error
    network = make(config, dtype=dtype, image_size=image_size, mean=mean, std=std)
    if not isinstance(network, Backbone) or not hasattr(network, "feature_dim"):
        raise ConfigError(
            f"model.backbone: '{name}' built a {type(network).__name__}, expected a Backbone with "
            "a feature_dim."
        )
    return network


def assign(new: keras.Model, old: keras.Model) -> None:
    """Give a network the values of another one of the same structure."""
    for target, source in zip(new.variables, old.variables, strict=True):
        target.assign(source)
