"""The contract of a backbone: whatever keeps it can be clustered, whoever trained it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

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


class Backbone(Protocol):
    """A network from images to features.

    Attributes:
        feature_dim: D.
        image_size: side to which the network resizes its images.
        mean: per channel, of images in 0..1: what the network wants subtracted.
        std: per channel, what it wants them divided by after that.
        dtype_policy: Keras dtype policy, or its name.
        provenance: where the weights come from.
        variables: all of the network's.
    """

    feature_dim: int
    image_size: int
    mean: Color
    std: Color
    dtype_policy: Any
    provenance: Provenance
    variables: Sequence[Any]

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images float [B,S,S,3], for any S."""
        ...

    def copy(self, dtype: str) -> Backbone:
        """The same network with the same weights, computing in `dtype`, a Keras dtype policy."""
        ...


def resize(x: tf.Tensor, size: int) -> tf.Tensor:
    """Images float [B,S,S,3] at the side `size`: bilinear, antialiased where they get smaller.

    Graph code. Nothing is done where S is known to be `size`.
    """
    side = x.shape[1]
    if side == size:
        return x
    # Enlarging needs no antialiasing, whose kernel is slower and not to be had under XLA.
    return tf.image.resize(x, (size, size), antialias=side is None or side > size)
