"""The contract between a method and the training loop.

A task declares its views as data, so that every loader can realise every task without knowing
it, and gives the loss of a batch of those views. It never touches data sets, optimisers, files
or the loop.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import keras
import tensorflow as tf

from scan_tf.config import PretextConfig
from scan_tf.models.resnet import ResNet
from scan_tf.models.weights import named_variables

Batch = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class View:
    """One augmented look at an image.

    Attributes:
        policy: name of an augmentation policy: none, weak, simclr or strong.
        of: the anchor itself, or one of its neighbours drawn uniformly from its K+1.
    """

    policy: str
    of: Literal["anchor", "neighbor"] = "anchor"


class Task(abc.ABC):
    """A method: views to look at, a loss to minimise, variables to train.

    Attributes:
        views: name -> View; a batch holds each as a normalised `[B, S, S, 3]` tensor, and
            `index`, int32 `[B]`, the position of the anchors in the data set.
        networks: name -> network; what a stage saves as its weights. Always has "backbone".
    """

    views: Mapping[str, View]
    networks: Mapping[str, keras.Model]

    @property
    def backbone(self) -> ResNet:
        """The network whose features the next stages use."""
        return self.networks["backbone"]

    @property
    def trainable_variables(self) -> list[Any]:
        """The variables that the optimiser updates."""
        return [v for n in self.networks.values() for v in n.trainable_variables]

    @property
    def extra_state(self) -> list[Any]:
        """Variables beside the networks': queues, banks, moving averages; no two of one name."""
        return []

    @property
    def named_state(self) -> dict[str, Any]:
        """Every variable that a resumed run needs, by a name that is the same in every run.

        Raises:
            ValueError: two variables have one name.
        """
        named = named_variables(self.networks)
        for variable in self.extra_state:
            name = f"extra/{getattr(variable, 'path', variable.name).removesuffix(':0')}"
            if name in named:
                raise ValueError(f"two variables of {type(self).__name__} are named '{name}'.")
            named[name] = variable
        return named

    @property
    def state(self) -> list[Any]:
        """The variables of `named_state`, in their order."""
        return list(self.named_state.values())

    @abc.abstractmethod
    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a batch.

        Returns:
            loss: float32 scalar to minimise.
            metrics: float32 scalars to log. A metric called `skipped` that is positive keeps
                the optimiser from making this step.
        """

    def after_update(self, batch: Batch) -> None:
        """What follows the optimiser's step, inside the same compiled update.

        Most methods do nothing here.
        """
        return


class Pretext(Task):
    """A task that learns features without labels; one file in `scan_tf/methods/pretext/` each.

    Args:
        config: the section's typed config.
        backbone: the network to train, already built.
        projection_dim: size P of the projection, for methods that have one.
        num_images: size N of the training set, for methods with a memory bank.
    """

    @abc.abstractmethod
    def __init__(
        self,
        config: PretextConfig,
        backbone: ResNet,
        *,
        projection_dim: int,
        num_images: int,
    ):
        """Build the heads and the variables."""

    @abc.abstractmethod
    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """Features by which neighbours are mined, in inference mode.

        Args:
            images: float `[B, S, S, 3]`, normalised.

        Returns:
            float32 `[B, P]` (or `[B, D]`), rows of unit length.
        """
