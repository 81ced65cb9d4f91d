"""Networks that others made, of Keras, KerasHub or a SavedModel, as backbones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from scan_tf.errors import ConfigError, ScanError
from scan_tf.models.backbone import Backbone, Color, Provenance, assign, resize


class Wrapped(Backbone):
    """A frozen network under the contract of `Backbone`.

    Args:
        make: makes the network for a Keras dtype policy: a function from normalised images f32
            [B,S,S,3] to a vector [B,D], a map [B,H,W,D], which is averaged, or tokens [B,T,D], of
            which the first, the class token, is taken; and all of its variables.
        image_size: side S to which images are resized.
        mean: what the network wants subtracted from images in 0..1, per channel.
        std: what it wants them divided by after that.
        provenance: where the weights come from.
        dtype: Keras dtype policy, "float32" or "mixed_bfloat16".

    Raises:
        ConfigError: the network does not take images of that size, or returns something else.
    """

    provenance: Provenance
    trainable_variables = ()

    def __init__(
        self,
        make: Callable[[str], tuple[Callable[[tf.Tensor], Any], Sequence[Any]]],
        *,
        image_size: int,
        mean: Color,
        std: Color,
        provenance: Provenance,
        dtype: str = "float32",
    ):
        self.image_size, self.mean, self.std = image_size, mean, std
        self.provenance, self.dtype_policy = provenance, dtype
        self._make = make
        try:
            self._network, self.variables = make(dtype)
            self.non_trainable_variables = self.variables
            self.feature_dim = int(self(tf.zeros([1, image_size, image_size, 3])).shape[-1])
        except ScanError:
            raise
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            raise ConfigError(
                f"{provenance.name}: cannot be used on images of {image_size} x {image_size} "
                f"pixels ({error})."
            ) from error

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images [B,S,S,3], for any S.

        Raises:
            ValueError: `training` is asked for: these networks are frozen.
        """
        if training:
            raise ValueError(f"{self.provenance.name}: is frozen, it has no training mode here.")
        y = tf.cast(self._network(resize(x, self.image_size)), tf.float32)
        rank = len(y.shape)
        if rank == 4:
            return tf.reduce_mean(y, axis=[1, 2])
        if rank == 3:
            return y[:, 0]
        if rank != 2:
            raise ValueError(f"expected features [B,D], a map or tokens, got {y.shape}")
        return y

    def copy(self, dtype: str) -> Wrapped:
        """The same network with the same weights, computing in another dtype policy."""
        copy = Wrapped(
            self._make,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            provenance=self.provenance,
            dtype=dtype,
        )
        assign(copy, self)
        return copy
