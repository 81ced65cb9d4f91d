"""The tensors of the official PyTorch networks: names, shapes, and values made by a rule.

The oracles (`data/networks.npz`, and the numbers of whole training steps) were computed with
these values, so that no weights need to be stored. Nothing here comes from `scan_tf`: the names
are a second, independent statement of what the official checkpoints hold.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

Named = tuple[str, tuple[int, ...]]


def backbone(blocks: tuple[int, ...] = (2, 2, 2, 2), width: int = 64) -> Iterator[Named]:
    """Names and shapes (PyTorch layout) of a ResNet of basic blocks with a 3x3 stem."""
    yield "backbone.conv1.weight", (width, 3, 3, 3)
    yield from batch_norm("backbone.bn1", width)
    before = width
    for stage, count in enumerate(blocks):
        size = width * 2**stage
        for i in range(count):
            at = f"backbone.layer{stage + 1}.{i}"
            yield f"{at}.conv1.weight", (size, before, 3, 3)
            yield from batch_norm(f"{at}.bn1", size)
            yield f"{at}.conv2.weight", (size, size, 3, 3)
            yield from batch_norm(f"{at}.bn2", size)
            if stage > 0 and i == 0:
                yield f"{at}.shortcut.0.weight", (size, before, 1, 1)
                yield from batch_norm(f"{at}.shortcut.1", size)
            before = size


def batch_norm(at: str, size: int) -> Iterator[Named]:
    for kind in ("weight", "bias", "running_mean", "running_var"):
        yield f"{at}.{kind}", (size,)


def contrastive_head(features: int = 512, projection: int = 128) -> Iterator[Named]:
    yield "contrastive_head.0.weight", (features, features)
    yield "contrastive_head.0.bias", (features,)
    yield "contrastive_head.2.weight", (projection, features)
    yield "contrastive_head.2.bias", (projection,)


def cluster_heads(heads: int, clusters: int, features: int = 512) -> Iterator[Named]:
    for head in range(heads):
        yield f"cluster_head.{head}.weight", (clusters, features)
        yield f"cluster_head.{head}.bias", (clusters,)


def tensors(named: Iterator[Named]) -> dict[str, np.ndarray]:
    """Values by name: `tensors(backbone())`."""
    return {name: value(name, shape) for name, shape in named}


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array that the rule gives a tensor, from its name alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 2020)
    norm = len(shape) == 1 and any(part in name for part in ("bn", "shortcut.1", "downsample.1"))
    if "running_var" in name or (norm and name.endswith("weight")):
        array = rng.uniform(0.5, 1.5, shape)
    elif "running_mean" in name or (norm and name.endswith("bias")):
        array = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 4:
        array = rng.standard_normal(shape) * np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
    elif len(shape) == 2:
        array = rng.uniform(-(shape[1] ** -0.5), shape[1] ** -0.5, shape)
    else:
        array = rng.uniform(-0.05, 0.05, shape)
    return array.astype(np.float32)
