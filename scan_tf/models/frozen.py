"""A pretrained network that is not trained further, and what is made of its features."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from scan_tf.models import reduction
from scan_tf.models.backbone import Backbone, assign


class Frozen(Backbone):
    """A backbone whose features are those of another one, centred, projected and of unit length.

    Centre and components are constants of the set that the features were fitted on (principal
    components, as the inputs of cluster heads; length 1, since neighbours go by the cosine). They
    are the only variables that are saved and carried; the network itself is loaded again by name.

    Args:
        network: the pretrained network, of features [B,D'].
        image_size: side of the images that come in; the network resizes them to its own.
        dim: D, how many principal components are kept; None: all D' features.

    Attributes:
        network: as given.
    """

    trainable_variables: tuple[Any, ...] = ()

    def __init__(self, network: Backbone, *, image_size: int, dim: int | None):
        self.network, self.image_size = network, image_size
        self.mean, self.std = network.mean, network.std
        self.dtype_policy, self.provenance = network.dtype_policy, network.provenance
        width = network.feature_dim
        self.feature_dim = min(dim or width, width)
        self._dim = dim
        self.center = keras.Variable(np.zeros(width, np.float32), trainable=False, name="center")
        self.components = keras.Variable(
            np.eye(width, self.feature_dim, dtype=np.float32), trainable=False, name="components"
        )
        self.variables = [self.center, self.components]
        self.non_trainable_variables = self.variables

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images [B,S,S,3], whatever `training` says."""
        return self._project(tf.stop_gradient(self.network(x, training=False)))

    @property
    def parts(self) -> list[Any]:
        """The constants, and every variable of the network."""
        return [*self.variables, *self.network.parts]

    def copy(self, dtype: str) -> Frozen:
        """The same with the network computing in another Keras dtype policy."""
        new = Frozen(self.network.copy(dtype), image_size=self.image_size, dim=self._dim)
        assign(new, self)
        return new

    def fit(self, features: np.ndarray) -> float:
        """Set centre and components from features float [N,D'] of the network.

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
        """Features float32 [N,D] from features float [N,D'] of the network."""
        return self._reduction().rows(features)

    def _reduction(self) -> reduction.Reduction:
        return reduction.Reduction(np.asarray(self.center), np.asarray(self.components), 1.0)

    def _project(self, features: tf.Tensor) -> tf.Tensor:
        centred = features - tf.convert_to_tensor(self.center)
        rows = tf.matmul(centred, tf.convert_to_tensor(self.components))
        return tf.math.l2_normalize(rows, axis=-1, epsilon=1e-24)
