"""Batched inference over a whole data set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from scan_tf.augment.policies import Policy
from scan_tf.data.image_set import ImageSet

Network = Callable[..., tf.Tensor]
# Features that heads are given at a time.
_BLOCK = 10_000


def embed(
    network: Network,
    images: ImageSet,
    *,
    policy: Policy | None = None,
    seed: int = 0,
    batch_size: int = 500,
    jit: bool = False,
    progress: str | None = None,
) -> np.ndarray:
    """Apply `network` to every image, in the order of the data set.

    Args:
        network: maps images f32 `[B, S, S, 3]` in 0..1 to a float tensor `[B, ...]`. It is compiled
            here where there are several batches, unless it is a `tf.function`, which is then
            compiled once for many calls.
        images: N images.
        policy: augmentation to apply first; None: none.
        seed: of the augmentation.
        batch_size: images at a time; the last batch is filled up, so that one shape is compiled.
        jit: compile with XLA.
        progress: what to call the progress bar; None: no bar.

    Returns:
        float32 `[N, ...]`.
    """

    def forward(pixels: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        scaled = tf.cast(pixels, tf.float32) / 255.0
        if policy is not None:
            scaled = policy(scaled, tf.stack([seed, start]))
        return tf.cast(network(scaled), tf.float32)

    count = len(images)
    size = min(batch_size, count)
    compiled = isinstance(network, tf.types.experimental.PolymorphicFunction)
    # One batch is computed before it would be compiled.
    if not compiled and (jit or count > size):
        pixels = tf.TensorSpec([size, *images.images.shape[1:]], tf.uint8)
        function = tf.function(forward, jit_compile=jit, autograph=False)
        # For the one shape; called without it, TensorFlow warns of many functions of one name.
        forward = function.get_concrete_function(pixels, tf.TensorSpec([], tf.int32))
    parts = []
    starts = range(0, count, size)
    hidden = True if progress is None else None  # None: where the output is no terminal
    for start in tqdm(starts, progress, unit="batch", disable=hidden, leave=False):
        rows = np.arange(start, start + size).clip(max=count - 1)
        pixels = tf.convert_to_tensor(images.images[rows])
        parts.append(forward(pixels, tf.constant(start, tf.int32)).numpy())
    return np.concatenate(parts)[:count]


def head_probs(heads: Network, features: np.ndarray) -> np.ndarray:
    """Cluster probabilities float32 `[H, N, C]` from features float32 `[N, D]`."""
    return blockwise(lambda block: tf.nn.softmax(heads(block)), features, axis=1)


def blockwise(network: Network, features: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """What a network makes of features float32 `[N, D]`, N along `axis` of the result."""
    blocks = [features[i : i + _BLOCK] for i in range(0, len(features), _BLOCK)]
    return np.concatenate([network(block).numpy() for block in blocks], axis=axis)
