"""The contract of a backbone: whatever keeps it can be clustered, whoever trained it."""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from scan_tf import replicas
from scan_tf.config import ModelConfig
from scan_tf.errors import ConfigError

Color = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where weights come from; a report says it beside every score.

    Attributes:
        name: of the network.
        trained: how it was trained, and on what; whether labels were used.
        licence: of the weights, as far as it is known, or where to look.
        labels: whether human labels were used; None: not known.
    """

    name: str
    trained: str
    licence: str
    labels: bool | None


class Backbone(abc.ABC):
    """A network from images to pooled features: a Keras model, or anything that is called so.

    Nothing else in the program asks what kind of network it is. Variables are stored by their
    paths, so that the layers of a Keras model need names; Keras numbers those that have none.
    Where a training has replicas, the call of every subclass gets the images of one of them and
    returns the features of all.

    Attributes:
        feature_dim: D.
        image_size: side S in pixels of the images that it takes.
        mean: per channel, of images in 0..1: what the network wants subtracted.
        std: per channel, what it wants them divided by after that.
        provenance: where its weights come from; None: it is trained here.
        variables: all variables that are saved and carried.
        trainable_variables: those that learn.
        non_trainable_variables: the others.
    """

    feature_dim: int
    image_size: int
    mean: Color
    std: Color
    dtype_policy: Any
    variables: Sequence[Any]
    trainable_variables: Sequence[Any]
    non_trainable_variables: Sequence[Any]
    provenance: Provenance | None = None

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        for name in ("call", "__call__"):
            if name in vars(cls):
                setattr(cls, name, replicas.of_all_rows(vars(cls)[name]))

    @abc.abstractmethod
    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images [B,S,S,3]; `training`: batch statistics."""

    @abc.abstractmethod
    def copy(self, dtype: str) -> Backbone:
        """The same network with the same weights, computing in another Keras dtype policy.

        Args:
            dtype: a Keras dtype policy, such as `float32`.
        """

    @property
    def parts(self) -> Sequence[Any]:
        """Every variable that a call reads: what a SavedModel has to hold."""
        return self.variables

    def normalise(self, images: tf.Tensor) -> tf.Tensor:
        """(images - mean) / std per channel; float32 [B,S,S,3], images in 0..1.

        Args:
            images: f32 [B,S,S,3] in 0..1.
        """
        return (images - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """Features f32 [B,D] of images f32 [B,S,S,3] in 0..1, in inference mode.

        Args:
            images: f32 [B,S,S,3] in 0..1.
        """
        return self(self.normalise(images), training=False)


def build(
    config: ModelConfig,
    *,
    dtype: str,
    image_size: int = 32,
    mean: Color = (0.0, 0.0, 0.0),
    std: Color = (1.0, 1.0, 1.0),
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


def assign(new: Any, old: Any) -> None:
    """Give a network the values of another one of the same structure."""
    for target, source in zip(new.variables, old.variables, strict=True):
        target.assign(source)


def resize(x: tf.Tensor, size: int) -> tf.Tensor:
    """Images float [B,S,S,3] at the side `size`: bilinear, antialiased where they get smaller.

    Graph code. Nothing is done where S is known to be `size`.
    """
    side = x.shape[1]
    if side == size:
        return x
    # Enlarging needs no antialiasing, whose kernel is slower and not to be had under XLA.
    return tf.image.resize(x, (size, size), antialias=side is None or side > size)
