"""A pretrained network, and what is made of its features."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from scan_tf.errors import ConfigError
from scan_tf.models import reduction
from scan_tf.models.backbone import Backbone, assign


class Frozen(Backbone):
    """A backbone whose features are those of another one, centred, projected and of unit length.

    Centre and components are constants of the set that the features were fitted on (principal
    components, as the inputs of cluster heads; length 1, since neighbours go by the cosine). They
    are the only variables that are saved and carried; the network itself is loaded again by name.
    Where it is tuned, its variables are saved with them.

    Args:
        network: the pretrained network, of features [B,D'].
        image_size: side of the images that come in; the network resizes them to its own.
        dim: D, how many principal components are kept; None: all D' features.
        tuned: whether its weights are trained further; BatchNorm keeps the statistics that it
            came with, since small batches of few images have worse ones.

    Raises:
        ConfigError: `tuned`, and it has no weights that could be trained.

    Attributes:
        network: as given.
    """

    def __init__(self, network: Backbone, *, image_size: int, dim: int | None, tuned: bool = False):
        self.network, self.image_size, self.tuned = network, image_size, tuned
        self.mean, self.std = network.mean, network.std
        self.dtype_policy, self.provenance = network.dtype_policy, network.provenance
        width = network.feature_dim
        self.feature_dim = min(dim or width, width)
        self._dim = dim
        self.center = keras.Variable(np.zeros(width, np.float32), trainable=False, name="center")
        self.components = keras.Variable(
            np.eye(width, self.feature_dim, dtype=np.float32), trainable=False, name="components"
        )
        constants = [self.center, self.components]
        self.variables = [*constants, *network.variables] if tuned else constants
        self.trainable_variables = [v for v in self.variables if tuned and v.trainable]
        self.non_trainable_variables = [v for v in self.variables if not (tuned and v.trainable)]
        if tuned and not self.trainable_variables:
            name = network.provenance.name if network.provenance else type(network).__name__
            raise ConfigError(
                f"pretext.frozen: must be true: {name} has no weights that could be trained."
            )

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images [B,S,S,3], whatever `training` says."""
        features = self.network(x, training=False)
        return self._project(features if self.tuned else tf.stop_gradient(features))

    @property
    def parts(self) -> list[Any]:
        """The constants, and every variable of the network."""
        return [self.center, self.components, *self.network.parts]

    def copy(self, dtype: str) -> Frozen:
        """The same with the network computing in another Keras dtype policy.

        Args:
            dtype: a Keras dtype policy, such as `float32`.
        """
        network = self.network.copy(dtype)
        new = Frozen(network, image_size=self.image_size, dim=self._dim, tuned=self.tuned)
        assign(new, self)
        return new

    def fit(self, features: np.ndarray) -> float:
        """Set centre and components from features float [N,D'] of the network.

        Args:
            features: float [N,D'].

        Returns:
            The share of the variance that the components keep, 0..1.

        Raises:
            DataError: all features are equal, so that nothing could be told apart.
        """
        found = reduction.fit(features, self.feature_dim)
        axes = np.zeros(self.components.shape, np.float32)
        axes[:, : found.axes.shape[1]] = found.axes
        self.center.assign(found.mean)
        if self._dim is not None:
            self.components.assign(axes)
        return found.explained

    def project(self, features: np.ndarray) -> np.ndarray:
        """Features float32 [N,D] from features float [N,D'] of the network.

        Args:
            features: float [N,D'].
        """
        return self._reduction().rows(features)

    def _reduction(self) -> reduction.Reduction:
        return reduction.Reduction(np.asarray(self.center), np.asarray(self.components), 1.0)

    def _project(self, features: tf.Tensor) -> tf.Tensor:
        centred = features - tf.convert_to_tensor(self.center)
        rows = tf.matmul(centred, tf.convert_to_tensor(self.components))
        return tf.math.l2_normalize(rows, axis=-1, epsilon=1e-24)
