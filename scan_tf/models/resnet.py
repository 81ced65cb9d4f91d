"""ResNets (He et al., 2015) for small and large images, with the layout of the official networks.

Layers carry the names of the PyTorch modules (`layer2.0/shortcut.0/kernel`), so that
`scan_tf.models.torch_names` can port checkpoints by name.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from scan_tf.config import ModelConfig
from scan_tf.models.backbone import Backbone, Color, assign
from scan_tf.models.layers import BatchNorm, Conv

# Blocks in each of the four stages, and whether they are bottlenecks (He et al., table 1).
_LAYOUTS = {
    "resnet10": ((1, 1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}

# Side and stride of each stem's convolution.
_STEMS = {"cifar": (3, 1), "stl": (3, 1), "imagenet": (7, 2), "strided": (3, 2)}


def build(config: ModelConfig, *, dtype: str, image_size: int = 32, **normalisation: Any) -> ResNet:
    """The ResNet that `config` names, with all its variables.

    Args:
        config: the names of backbone and stem, and the width.
        dtype: Keras dtype policy, "float32" or "mixed_bfloat16"; variables are float32 in both.
        image_size: side of the images for which it is built; the network takes other sides too.
        normalisation: `mean` and `std`, as for `Backbone`.
    """
    blocks, bottleneck = _LAYOUTS[config.backbone]
    return ResNet(
        blocks,
        bottleneck=bottleneck,
        stem=config.stem,
        width=config.width,
        dtype=dtype,
        image_size=image_size,
        **normalisation,
    )


class ResNet(keras.Model, Backbone):
    """Residual network from normalised images to pooled features.

    The stems: `cifar`, 3x3 convolution at stride 1; `strided`, the same at stride 2, a quarter of
    the cost (not in the official code); `stl`, the same and a max-pool 2x2 at stride 2
    padded by 1 (96 -> 49 -> 25 -> 13 -> 7); `imagenet`, 7x7 convolution at stride 2 and a max-pool
    3x3 at stride 2 padded by 1.

    Args:
        blocks: residual blocks of each of the four stages, such as (2, 2, 2, 2).
        bottleneck: blocks of three convolutions in place of two (ResNet-50).
        stem: `cifar`, `strided`, `stl` or `imagenet`, see above.
        width: channels of the first stage, at least 1; the others have 2, 4 and 8 times as many.
        dtype: Keras dtype policy, such as `float32` or `mixed_bfloat16`.
        image_size: S, the side of the images in pixels.
        mean: of each channel of images in 0..1, which `embed` takes away.
        std: of each channel, by which it divides.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        *,
        bottleneck: bool = False,
        stem: str = "cifar",
        width: int = 64,
        dtype: str = "float32",
        image_size: int = 32,
        mean: Color = (0.0, 0.0, 0.0),
        std: Color = (1.0, 1.0, 1.0),
    ):
        super().__init__(name="resnet", dtype=dtype)
        self.image_size, self.mean, self.std = image_size, mean, std
        self.stem, self.width = stem, width
        self._layout = (blocks, bottleneck)
        self.stem_relu = True  # one of the PyTorch layouts has none
        kernel, strides = _STEMS[stem]
        self.conv1 = Conv(width, kernel, strides, name="conv1", dtype=dtype)
        self.bn1 = BatchNorm(name="bn1", dtype=dtype)
        self.blocks: list[_Block] = []
        # How many blocks there are up to the end of each stage.
        self._stage_ends = [sum(blocks[:stage]) for stage in range(1, 5)]
        channels = width
        for stage, count in enumerate(blocks):
            filters = width * 2**stage
            for i in range(count):
                block = _Block(
                    channels,
                    filters,
                    strides=2 if stage > 0 and i == 0 else 1,
                    bottleneck=bottleneck,
                    # torchvision's networks call the projection "downsample".
                    shortcut="downsample" if stem == "imagenet" else "shortcut",
                    name=f"layer{stage + 1}.{i}",
                    dtype=dtype,
                )
                self.blocks.append(block)
                channels = block.channels
        self.feature_dim = channels
        self.build((None, image_size, image_size, 3))

    def build(self, input_shape: Any) -> None:
        """Create the variables, without the call by which Keras would, which is slower."""
        self.conv1.build(input_shape)
        self.bn1.build((None, None, None, self.width))
        channels = self.width
        for block in self.blocks:
            block.build((None, None, None, channels))
            channels = block.channels

    def copy(self, dtype: str) -> ResNet:
        """The same network with the same weights, computing in another Keras dtype policy.

        Args:
            dtype: a Keras dtype policy, such as `float32`.
        """
        blocks, bottleneck = self._layout
        new = ResNet(
            blocks,
            bottleneck=bottleneck,
            stem=self.stem,
            width=self.width,
            dtype=dtype,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
        )
        assign(new, self)
        return new

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features f32 [B,D] of normalised images [B,S,S,3]; `training`: batch statistics.

        Args:
            x: normalised images f32 [B,S,S,3].
            training: BatchNorm goes by the batch, not by its running averages.
        """
        return self.stage_features(x, 4, training=training)

    def stage_features(self, x: tf.Tensor, stage: int, training: bool = False) -> tf.Tensor:
        """The pooled output of one of the four stages, counted from 1.

        f32 [B,D'], D' = D / 2**(4 - stage). After the last one these are the features of `call`.

        Args:
            x: normalised images f32 [B,S,S,3].
            stage: 1 to 4.
            training: as for `call`.
        """
        x = self.bn1(self.conv1(x), training=training)
        x = tf.nn.relu(x) if self.stem_relu else x
        if self.stem in ("stl", "imagenet"):
            # After a ReLU zeros are as good as the -inf that a max-pool pads with.
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
            x = tf.nn.max_pool2d(x, 3 if self.stem == "imagenet" else 2, 2, "VALID")
        for block in self.blocks[: self._stage_ends[stage - 1]]:
            x = block(x, training=training)
        return tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2])


class _Block(keras.layers.Layer):
    """Residual block: two 3x3 convolutions, or 1x1-3x3-1x1 with the stride in the 3x3 ("v1.5")."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        *,
        strides: int,
        bottleneck: bool,
        shortcut: str,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.channels = filters * (4 if bottleneck else 1)
        if bottleneck:
            shapes = [(filters, 1, 1), (filters, 3, strides), (self.channels, 1, 1)]
        else:
            shapes = [(filters, 3, strides), (filters, 3, 1)]
        self.convs = [
            Conv(*shape, name=f"conv{i}", dtype=dtype) for i, shape in enumerate(shapes, 1)
        ]
        self.norms = [BatchNorm(name=f"bn{i}", dtype=dtype) for i in range(1, len(shapes) + 1)]
        self.projection = None
        if strides != 1 or in_channels != self.channels:
            self.projection = Conv(self.channels, 1, strides, name=f"{shortcut}.0", dtype=dtype)
            self.projection_norm = BatchNorm(name=f"{shortcut}.1", dtype=dtype)

    def build(self, input_shape: Any) -> None:
        """Create the variables for inputs [B,S,S,in_channels]."""
        shape = input_shape
        for conv, norm in zip(self.convs, self.norms, strict=True):
            conv.build(shape)
            shape = (None, None, None, conv.filters)
            norm.build(shape)
        if self.projection is not None:
            self.projection.build(input_shape)
            self.projection_norm.build(shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B,S,S,in_channels] -> [B,S',S',channels]."""
        y = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = norm(conv(y), training=training)
            if conv is not self.convs[-1]:
                y = tf.nn.relu(y)
        if self.projection is not None:
            x = self.projection_norm(self.projection(x), training=training)
        return tf.nn.relu(x + y)
