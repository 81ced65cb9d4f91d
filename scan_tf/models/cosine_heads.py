"""Cluster heads whose logits are cosines, as TEMI trains them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class CosineHeads(keras.Model):
    """H independent classifiers whose logits are cosines, gains apart (TEMI, BMVC 2023).

    Linear layers with GELU between them, the output of the last scaled to unit length; then a
    weight-normalised linear layer without bias, whose gain for each cluster starts at 1. Weights
    start as a truncated normal of deviation 0.02 (official code). Each layer is one product for
    all heads, which share nothing.

    Args:
        num_heads: H.
        num_clusters: C.
        hidden: widths of the layers before the weight-normalised one (official code: 512, 256);
            (): that layer alone, on the features scaled to unit length.
        temperature: divides the cosines, so that their softmax is what the head says.
    """

    def __init__(
        self,
        num_heads: int,
        num_clusters: int,
        *,
        hidden: Sequence[int] = (512, 256),
        temperature: float = 0.1,
    ):
        super().__init__(name="cosine_heads", dtype="float32")
        self.num_heads, self.num_clusters = num_heads, num_clusters
        self.hidden, self.temperature = tuple(hidden), temperature

    def build(self, input_shape: Any) -> None:
        """Create the variables for features of shape (None, D)."""
        widths = [input_shape[-1], *self.hidden]
        self.kernels = [
            self._add(f"kernel{i}", *shape) for i, shape in enumerate(itertools.pairwise(widths))
        ]
        self.biases = [
            self._add(f"bias{i}", 1, width, start="zeros") for i, width in enumerate(self.hidden)
        ]
        self.directions = self._add("directions", widths[-1], self.num_clusters)
        self.gains = self._add("gains", 1, self.num_clusters, start="ones")

    def _add(self, name: str, *shape: int, start: str | None = None) -> Any:
        # A new initialiser each time: one by itself gives every shape the same values.
        initializer = start or keras.initializers.TruncatedNormal(stddev=0.02)
        return self.add_weight(
            name=name, shape=(self.num_heads, *shape), initializer=initializer, dtype="float32"
        )

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Logits f32 [H,B,C] of features [B,D].

        Args:
            features: float [B,D].
        """
        x, equation = tf.cast(features, tf.float32), "bd,hde->hbe"
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = tf.einsum(equation, tf.nn.gelu(x) if number else x, kernel) + bias
            equation = "hbd,hde->hbe"
        directions = _unit(tf.convert_to_tensor(self.directions), 1) * self.gains
        return tf.einsum(equation, _unit(x), directions) / self.temperature

    def keep(self, head: int) -> CosineHeads:
        """A new CosineHeads (H = 1) with a copy of head number `head`, from 0.

        Args:
            head: its number, 0..H-1.

        Raises:
            IndexError: there is no such head.
        """
        kept = CosineHeads(1, self.num_clusters, hidden=self.hidden, temperature=self.temperature)
        first = self.kernels[0] if self.kernels else self.directions
        kept.build((None, first.shape[1]))
        for new, old in zip(kept.variables, self.variables, strict=True):
            new.assign(np.asarray(old)[head][None])
        return kept

    def cooled(self, temperature: float) -> CosineHeads:
        """Heads of the same weights whose logits are these divided by a temperature.

        Args:
            temperature: above 0; above 1 the probabilities get less sure.
        """
        if temperature == 1:
            return self
        cooled = CosineHeads(
            self.num_heads,
            self.num_clusters,
            hidden=self.hidden,
            temperature=self.temperature * temperature,
        )
        first = self.kernels[0] if self.kernels else self.directions
        cooled.build((None, first.shape[1]))
        for new, old in zip(cooled.variables, self.variables, strict=True):
            new.assign(old)
        return cooled


def _unit(x: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """X / max(|x|, 1e-12); the square is bounded, not the root, whose gradient at 0 is NaN."""
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(x * x, axis, keepdims=True), 1e-24))
