"""Small networks, tasks and data, on which whole training steps take milliseconds.

`NAMES` lists every task there is; the pretexts among them are found as the program finds them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from scan_tf.config import (
    AugmentConfig,
    OptimizerConfig,
    RuntimeConfig,
    TrainConfig,
)
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet
from scan_tf.machine import Device
from scan_tf.methods import catalog
from scan_tf.methods.clustering import scan, temi
from scan_tf.methods.selflabel import cdc, confident, fixmatch
from scan_tf.methods.task import Task
from scan_tf.models import resnet
from scan_tf.models.heads import ClusterHeads
from scan_tf.replicas import ALONE, Replicas
from scan_tf.training.loader import CachedLoader, Loader, Order
from scan_tf.training.loop import Trainer

SIZE, COUNT, BATCH, CLUSTERS, NEIGHBORS = 16, 32, 8, 4, 5
# A single block, in the last stage: every kind of layer, and soon compiled.
BLOCKS = (0, 0, 0, 1)
# One in every stage, where a task has to learn something.
RESNET10 = (1, 1, 1, 1)
PLAIN = Device("cpu", "float32", jit_step=False, jit_augment=False)
QUIET = RuntimeConfig(progress=False, tensorboard=False, log_every=1)
FAST = OptimizerConfig("adam", lr=3e-3)
# Pretexts with options that change what they compute.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "byol_views": ("byol", {"blur": (1.0, 0.1), "solarize": (0.0, 0.2)}),
    "decoupling_sampled": ("feature_decoupling", {"negatives": 12, "feature": "invariant"}),
    "moco_symmetric": ("moco", {"symmetric": True, "batch_norm_groups": 2}),
    "nce_sampled": ("nce", {"negatives": 12}),
    "rotnet_stage": ("rotnet", {"feature_stage": 3}),
    "swav_crops": ("swav", {"local_crops": 2, "local_size": 8, "frozen_epochs": 0.0}),
    "simclr_dclw": ("simclr", {"loss": "dclw"}),
}
# All that train: pretrained features have tests of their own.
PRETEXTS = [*(name for name in catalog.available() if name != "pretrained"), *VARIANTS]
CLUSTERINGS = ["scan", "scan_heads", "scan_frozen", "scan_cached", "temi"]
SELFLABELS = ["selflabel", "selflabel_cached", "fixmatch", "cdc"]
NAMES = [*PRETEXTS, *CLUSTERINGS, *SELFLABELS]
# Heads are as wide as the papers', which makes them slower than the small network.
NARROW = {"hidden": 24, "dim": 16, "bottleneck": 8}


def images(count: int = COUNT, seed: int = 0, split: str = "train") -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    return ImageSet("noise", split, pixels, None, (), IMAGENET_MEAN, IMAGENET_STD)


def backbone(dtype: str = "float32", blocks: Any = BLOCKS) -> resnet.ResNet:
    how = {"image_size": SIZE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return resnet.ResNet(blocks, width=4, dtype=dtype, **how)


def make(name: str, dtype: str = "float32", blocks: Any = BLOCKS) -> Task:
    network = backbone(dtype, RESNET10 if name == "selflabel" else blocks)
    if name in PRETEXTS:
        kind, options = VARIANTS.get(name, (name, {}))
        config_class = catalog.config_class("pretext", kind)
        fields = {field.name for field in dataclasses.fields(config_class)}
        narrow = {field: width for field, width in NARROW.items() if field in fields}
        config = config_class(**narrow, **options)
        method = catalog.method_class("pretext", kind)
        return method(config, network, projection_dim=8, num_images=COUNT)
    heads = ClusterHeads(3 if name == "scan_heads" else 1, CLUSTERS)
    heads.build((None, network.feature_dim))
    if name in ("selflabel", "selflabel_cached"):
        # New networks are not sure of anything; a third is more than any cluster's even share.
        task = confident.Method(confident.Config(threshold=0.3, ema=0.9), network, heads)
        task.cached = name == "selflabel_cached"
        network.trainable = not task.cached
        return task
    if name == "fixmatch":
        # A weak view is not sure of anything either, and half of the images are reliable.
        config = fixmatch.Config(confidence=0.0, threshold=0.3, balanced=False, weight=0.2)
        task = fixmatch.Method(config, network, heads)
        probs = np.eye(CLUSTERS, dtype=np.float32)[np.arange(COUNT) % CLUSTERS]
        rows = np.arange(COUNT)
        near = (rows + np.where(rows % 8 < CLUSTERS, CLUSTERS, 1)) % COUNT
        task.begin(probs, np.stack([rows, near], axis=1))
        return task
    if name == "cdc":
        return cdc.Method(cdc.Config(), network, heads)
    if name == "temi":
        config = temi.Config()
        heads = temi.Method.new_heads(config, network.feature_dim, 3, CLUSTERS)
        return temi.Method(config, network, heads, cached=True)
    frozen = name in ("scan_frozen", "scan_cached")
    config = scan.Config(freeze_backbone=frozen)
    return scan.Method(config, network, heads, cached=name == "scan_cached")


def loader(
    task: Task,
    *,
    seed: int = 0,
    device: Device = PLAIN,
    augmented: bool = False,
    backend: Any = "device",
    replicas: Replicas = ALONE,
    **runtime: Any,
) -> Loader | CachedLoader:
    """Batches for a task; unless they are to be `augmented` by its policies, by a simple one."""
    table = np.random.default_rng(1).integers(0, COUNT, (COUNT, NEIGHBORS + 1))
    table[:, 0] = np.arange(COUNT)
    order = Order(COUNT, BATCH, seed=seed, neighbors=table.astype(np.int32))
    if getattr(task, "cached", False):
        features = np.random.default_rng(2).random((2, COUNT, task.backbone.feature_dim))
        rows = dict.fromkeys(task.views, features.astype(np.float32))
        return CachedLoader(rows, task.views, order)
    views = task.views
    if not augmented:
        plain = {"policy": "weak", "options": {}}
        views = {name: dataclasses.replace(view, **plain) for name, view in views.items()}
    return Loader(
        images(),
        views,
        order,
        normalise=task.normalise,
        augment_config=AugmentConfig(backend=backend),
        runtime=dataclasses.replace(QUIET, **runtime),
        device=device,
        replicas=replicas,
    )


def batch(task: Task, step: int = 0, **options: Any) -> dict[str, tf.Tensor]:
    """The batch of one step, computed eagerly."""
    source = loader(task, **options)
    inputs = next(source.inputs(step, step + 1))
    return source.prepare({k: tf.convert_to_tensor(v) for k, v in inputs.items()})


class Given:
    """A loader of given batches, one a step, over and over; an epoch is once through them."""

    def __init__(self, batches: list[dict[str, Any]]):
        self.batches = batches
        self.steps_per_epoch = len(batches)

    def inputs(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        for step in range(start, stop):
            yield self.batches[step % self.steps_per_epoch]

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs


def trainer(
    task: Task,
    source: Any,
    directory: Path,
    *,
    optimizer: OptimizerConfig = FAST,
    epochs: int = 1,
    device: Device = PLAIN,
    runtime: RuntimeConfig = QUIET,
    hook: Any = None,
    **options: Any,
) -> Trainer:
    config = TrainConfig(epochs=epochs, batch_size=BATCH, optimizer=optimizer)
    options |= {"runtime": runtime, "device": device, "hook": hook}
    return Trainer(task, source, config, directory, **options)


def values(variables: list[Any]) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in variables]
