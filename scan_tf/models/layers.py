"""Convolution, batch normalisation and dense layer as the official configuration has them.

They differ from the layers of Keras in what must agree for weights to be portable from PyTorch:
symmetric padding, unbiased running variance, initial values. Variables and BatchNorm's statistics
are float32; activations have the compute dtype of the layer's policy ("float32" or
"mixed_bfloat16"). Initial values follow Keras's global seed (`keras.utils.set_random_seed`).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from scan_tf import replicas


class Conv(keras.layers.Layer):
    """Square 2-D convolution without bias, padded by (kernel_size - 1) // 2 on every side.

    Input [B,S,S,channels], output [B,S',S',filters] with S' = ceil(S / strides) for odd kernels.
    Initial values: Kaiming normal, fan-out (He et al., 2015; official configuration).
    """

    def __init__(self, filters: int, kernel_size: int, strides: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        # Padding "SAME" is symmetric at stride 1. At stride 2 TensorFlow pads even sides on the far
        # end only, which shifts the image by a pixel against PyTorch, so `call` pads by hand; a
        # list given to conv2d would do the same, several times slower in bfloat16 on CPUs.
        self.margin = 0 if strides == 1 else (kernel_size - 1) // 2

    def build(self, input_shape: Any) -> None:
        """Create `kernel` f32 [k,k,channels,filters]."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            dtype="float32",
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Convolve [B,S,S,channels] to [B,S',S',filters] in the compute dtype."""
        kernel = tf.cast(self.kernel, self.compute_dtype)
        if self.margin:
            x = tf.pad(x, [[0, 0], [self.margin] * 2, [self.margin] * 2, [0, 0]])
        padding = "SAME" if self.strides == 1 else "VALID"
        return tf.nn.conv2d(x, kernel, self.strides, padding)


class BatchNorm(keras.layers.Layer):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy, 2015), PyTorch's constants.

    Epsilon 1e-5; running = 0.9 * running + 0.1 * batch, with the unbiased batch variance. Only
    `training` says which statistics are used; `trainable` changes nothing here.

    Args:
        affine: whether there are a scale `gamma` and an offset `beta` to learn.
    """

    epsilon = 1e-5
    momentum = 0.9

    def __init__(self, affine: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.affine = affine

    def build(self, input_shape: Any) -> None:
        """Create `gamma`, `beta`, `moving_mean` and `moving_variance`, f32 [channels]."""
        if self.affine:
            self.gamma = self._vector("gamma", "ones", input_shape[-1], trainable=True)
            self.beta = self._vector("beta", "zeros", input_shape[-1], trainable=True)
        self.moving_mean = self._vector("moving_mean", "zeros", input_shape[-1], trainable=False)
        self.moving_variance = self._vector(
            "moving_variance", "ones", input_shape[-1], trainable=False
        )

    def _vector(self, name: str, initializer: str, size: int, *, trainable: bool) -> Any:
        return self.add_weight(
            name=name,
            shape=(size,),
            initializer=initializer,
            trainable=trainable,
            dtype="float32",
            autocast=False,
        )

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalise [B,S,S,channels]; with `training`, by the batch, and update the averages."""
        scale = self.gamma if self.affine else tf.ones(x.shape[-1])
        offset = self.beta if self.affine else tf.zeros(x.shape[-1])
        if training and (shared := replicas.moments(x)):
            return self._normalise_all(x, *shared, scale, offset)
        empty = tf.constant([], tf.float32)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.convert_to_tensor(scale),
            offset=tf.convert_to_tensor(offset),
            mean=empty if training else tf.convert_to_tensor(self.moving_mean),
            variance=empty if training else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            # The kernel returns the unbiased variance, which is what the average is to hold.
            self._average(self.moving_mean, mean)
            self._average(self.moving_variance, variance)
        return y

    def _normalise_all(
        self, x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, count: Any, *affine: Any
    ) -> tf.Tensor:
        """Normalise by the batch of all replicas, and update the averages."""
        scale, offset = (tf.convert_to_tensor(v) for v in affine)
        y = tf.nn.batch_normalization(
            tf.cast(x, tf.float32), mean, variance, offset, scale, self.epsilon
        )
        count = tf.cast(count, tf.float32)
        self._average(self.moving_mean, mean)
        self._average(self.moving_variance, variance * count / tf.maximum(count - 1.0, 1.0))
        return tf.cast(y, x.dtype)

    def _average(self, running: Any, batch: tf.Tensor) -> None:
        old = tf.convert_to_tensor(running)
        running.assign(old + (1.0 - self.momentum) * (tf.stop_gradient(batch) - old))


class Linear(keras.layers.Layer):
    """Dense layer [B,D] -> [B,units]; kernel and bias start as U(+-1/sqrt(D)), as in PyTorch.

    Args:
        units: width of the output.
        use_bias: whether there is a bias; one that BatchNorm follows has no effect.
    """

    def __init__(self, units: int, use_bias: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.units, self.use_bias = units, use_bias

    def build(self, input_shape: Any) -> None:
        """Create `kernel` f32 [D,units] and `bias` f32 [units]."""
        bound = input_shape[-1] ** -0.5
        shapes = {"kernel": (input_shape[-1], self.units), "bias": (self.units,)}
        for name, shape in shapes.items() if self.use_bias else [("kernel", shapes["kernel"])]:
            uniform = keras.initializers.RandomUniform(-bound, bound)
            variable = self.add_weight(name=name, shape=shape, initializer=uniform, dtype="float32")
            setattr(self, name, variable)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Apply the layer in the compute dtype."""
        y = tf.matmul(x, tf.cast(self.kernel, self.compute_dtype))
        return y + tf.cast(self.bias, self.compute_dtype) if self.use_bias else y
