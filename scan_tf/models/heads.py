"""The heads on top of a backbone: projections and predictions of pretexts, logits for clusters.

All compute in float32 whatever the dtype of the backbone: their outputs go into exponentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from scan_tf.models.backbone import Backbone, assign
from scan_tf.models.layers import BatchNorm, Linear


class MLP(keras.Model):
    """Linear layers, each but the last with a ReLU: projectors, predictors and classifiers.

    Args:
        dims: widths, from the input to the output: `(512, 2048, 2048)` has two layers.
        name: of the network.
        norm: "none"; "hidden": BatchNorm before every ReLU; "all": after the last layer too,
            there without scale and offset (SimSiam, section 3, "projection MLP").
        bias: whether the last layer has a bias; none has one that BatchNorm follows.
        unit: scale the rows of the output to length 1.
        layers: names of the linear layers, under which weights are stored; None: linear1, ...
    """

    def __init__(
        self,
        dims: Sequence[int],
        *,
        name: str,
        norm: Literal["none", "hidden", "all"] = "hidden",
        bias: bool = True,
        unit: bool = False,
        layers: Sequence[str] | None = None,
    ):
        super().__init__(name=name, dtype="float32")
        self.dims, self.unit = tuple(dims), unit
        last = len(self.dims) - 1
        names = layers or [f"linear{i}" for i in range(1, last + 1)]
        normed = {"none": 0, "hidden": last - 1, "all": last}[norm]
        self.linears = [
            Linear(
                self.dims[i],
                use_bias=i > normed and (bias or i < last),
                name=layer,
                dtype="float32",
            )
            for i, layer in zip(range(1, last + 1), names, strict=True)
        ]
        self.norms = [
            BatchNorm(affine=i < last, name=f"norm{i}", dtype="float32")
            for i in range(1, normed + 1)
        ]
        self.build((None, self.dims[0]))

    def build(self, input_shape: Any) -> None:
        """Create the variables."""
        for linear, width in zip(self.linears, self.dims, strict=False):
            linear.build((None, width))
        for norm, width in zip(self.norms, self.dims[1:], strict=False):
            norm.build((None, 1, 1, width))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [B,D] to f32 [B,P]; with `training`, BatchNorm normalises by the batch.

        Args:
            x: float [B,D].
            training: BatchNorm goes by the batch.
        """
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if i < len(self.norms):
                x = self.norms[i](x[:, None, None, :], training=training)[:, 0, 0]
            if linear is not self.linears[-1]:
                x = tf.nn.relu(x)
        return _unit(x) if self.unit else x


class ProjectionHead(MLP):
    """Linear -> ReLU -> Linear to unit vectors (SimCLR, section 2.1: g(h) = W2 ReLU(W1 h)).

    Official configuration: 512 -> 512 -> 128 with biases and no BatchNorm, which is the projector
    of its checkpoints; weights are stored under their names there.

    Args:
        feature_dim: D, of the backbone.
        hidden: width of the layer between.
        dim: P, of the projection.
    """

    def __init__(self, feature_dim: int, hidden: int, dim: int):
        super().__init__(
            (feature_dim, hidden, dim),
            name="projection",
            norm="none",
            unit=True,
            layers=("hidden", "out"),
        )


class ClusterHeads(keras.Model):
    """H independent linear classifiers on the same features (SCAN, section 2.2).

    The stage keeps the one with the lowest label-free selection loss.

    Args:
        num_heads: H, at least 1.
        num_clusters: C, at least 1.
    """

    def __init__(self, num_heads: int, num_clusters: int):
        super().__init__(name="cluster_heads", dtype="float32")
        self.num_heads, self.num_clusters = num_heads, num_clusters
        self.heads = [Linear(num_clusters, name=str(i), dtype="float32") for i in range(num_heads)]

    def build(self, input_shape: Any) -> None:
        """Create the variables for features of shape (None, D)."""
        for head in self.heads:
            head.build(input_shape)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Logits f32 [H,B,C] of features [B,D], by one matrix product for all heads.

        Args:
            features: float [B,D].
        """
        kernels = tf.concat([tf.convert_to_tensor(head.kernel) for head in self.heads], axis=1)
        biases = tf.concat([tf.convert_to_tensor(head.bias) for head in self.heads], axis=0)
        logits = tf.matmul(features, kernels) + biases
        apart = tf.reshape(logits, [-1, self.num_heads, self.num_clusters])
        return tf.transpose(apart, [1, 0, 2])

    @classmethod
    def linear(cls, kernel: np.ndarray, bias: np.ndarray) -> ClusterHeads:
        """One head (H = 1) with this kernel f32 [D,C] and bias f32 [C].

        Args:
            kernel: float32 [D,C].
            bias: float32 [C].
        """
        heads = cls(1, len(bias))
        heads.build((None, len(kernel)))
        for variable, value in zip(heads.variables, (kernel, bias), strict=True):
            variable.assign(value)
        return heads

    def keep(self, head: int) -> ClusterHeads:
        """A new ClusterHeads (H = 1) with a copy of head number `head`, from 0.

        Args:
            head: its number, 0..H-1.

        Raises:
            IndexError: there is no such head.
        """
        source = self.heads[head]
        kept = ClusterHeads(1, self.num_clusters)
        kept.build((None, source.kernel.shape[0]))
        assign(kept, source)
        return kept

    def cooled(self, temperature: float) -> ClusterHeads:
        """New ClusterHeads whose logits are these divided by a temperature; themselves at 1.

        Args:
            temperature: above 0; above 1 the probabilities get less sure.
        """
        if temperature == 1:
            return self
        cooled = ClusterHeads(self.num_heads, self.num_clusters)
        cooled.build((None, self.heads[0].kernel.shape[0]))
        for new, old in zip(cooled.variables, self.variables, strict=True):
            new.assign(np.asarray(old) / temperature)
        return cooled


def new_heads(backbone: Backbone, num_heads: int, num_clusters: int) -> ClusterHeads:
    """H cluster heads for a backbone, with initial weights."""
    heads = ClusterHeads(num_heads, num_clusters)
    heads(tf.zeros([1, backbone.feature_dim]))
    return heads


def _unit(x: tf.Tensor) -> tf.Tensor:
    """Rows of length 1, x / max(|x|, 1e-12)."""
    # The square is bounded, not the root, whose gradient at 0 is NaN.
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(x * x, -1, keepdims=True), 1e-24))
