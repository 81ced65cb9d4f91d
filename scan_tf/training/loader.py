"""From a data set and a task's views to batches.

Three ways, one interface: images resident on the device and augmented inside the compiled step;
images streamed from memory (or a memory-mapped file) by a thread and augmented inside the step;
images augmented on the host with albumentations. `inputs(step)` is plain data, a pure function of
the seed and the step; `prepare(inputs)` is graph code that makes the task's batch of it.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from scan_tf import replicas as on_replicas
from scan_tf.augment import policies
from scan_tf.config import AugmentConfig, RuntimeConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import ConfigError
from scan_tf.machine import Device
from scan_tf.methods.task import View
from scan_tf.replicas import ALONE, Replicas

Inputs = dict[str, Any]


class Order:
    """Which images, and which of their neighbours, make up each step.

    Args:
        num_images: size N of the set.
        batch_size: B; what remains of an epoch after the last full batch is dropped.
        seed: of the permutations and of the neighbours drawn.
        neighbors: int32 `[N, K+1]`, column 0 the image itself, or None.

    Raises:
        ConfigError: fewer images than a batch.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int,
        neighbors: np.ndarray | None,
    ):
        if num_images < batch_size:
            raise ConfigError(
                f"batch_size: {batch_size} is more than the {num_images} images to train on. "
                f"Set it to {num_images} or less."
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.neighbors = neighbors
        self.steps_per_epoch = num_images // batch_size
        self._epoch = -1
        self._index = np.zeros(0, np.int32)
        self._neighbor = np.zeros(0, np.int32)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """int32 `[B]` arrays `index` and, with neighbours, `neighbor`; `seed` int32 `[2]`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        rows = slice(position * self.batch_size, (position + 1) * self.batch_size)
        out = {"index": self._index[rows], "seed": np.array([self.seed, step], np.int32)}
        if self.neighbors is not None:
            out["neighbor"] = self._neighbor[rows]
        return out

    def _shuffle(self, epoch: int) -> None:
        random = np.random.default_rng([self.seed, epoch])
        self._index = random.permutation(self.num_images).astype(np.int32)
        if self.neighbors is not None:
            columns = random.integers(0, self.neighbors.shape[1], self.num_images)
            self._neighbor = self.neighbors[self._index, columns].astype(np.int32)
        self._epoch = epoch


class Loader:
    """Realises the views of a task over an ImageSet.

    Args:
        images: what to train on.
        views: the task's views.
        order: which images at which step.
        normalise: what the task's network wants done to images in 0..1.
        augment_config: parameters of the policies, and the backend.
        runtime: how much may be resident on the device.
        device: whether augmentation is compiled.
        replicas: what is trained on; each prepares its rows of the batch, and all of `index`.

    Raises:
        ConfigError: a batch cannot be divided among the replicas.
    """

    def __init__(
        self,
        images: ImageSet,
        views: Mapping[str, View],
        order: Order,
        *,
        normalise: Callable[[tf.Tensor], tf.Tensor],
        augment_config: AugmentConfig,
        runtime: RuntimeConfig,
        device: Device,
        replicas: Replicas = ALONE,
    ):
        replicas.check(order.batch_size)
        self.replicas = replicas
        self.images = images
        self.views = views
        self.order = order
        self.normalise = normalise
        self.steps_per_epoch = order.steps_per_epoch
        size = images.images.shape[1]
        self._resident: list[tf.Tensor] | None = None
        self._host = augment_config.backend == "host"
        if self._host:
            from scan_tf.augment import host  # albumentations, which only this path needs

            self._host_policies = {
                name: host.make(
                    v.policy, augment_config, size=v.size or size, mean=images.mean, **v.options
                )
                for name, v in views.items()
            }
            return

        @functools.cache  # views that look in the same way share a compiled policy
        def policy(name: str, size: int, options: tuple[tuple[str, float], ...]) -> policies.Policy:
            how = dict(options)
            made = policies.make(name, augment_config, size=size, mean=images.mean, **how)
            return compiled(made, device, replicas)

        self._policies = {
            name: policy(v.policy, v.size or size, tuple(v.options.items()))
            for name, v in views.items()
        }
        # What is read as it is needed is not to fill the memory after all; a GPU has its own.
        may_stay = isinstance(images.images, np.ndarray) or device.kind == "gpu"
        if may_stay and math.prod(images.images.shape) <= runtime.resident_mib * 2**20:
            self._resident = replicas.copies(np.asarray(images.images[:]))

    def inputs(self, start: int, stop: int) -> Iterator[Inputs]:
        """Inputs of the steps `start` to `stop - 1`; slow ones are made ahead by a thread.

        Args:
            start: the first step, from 0.
            stop: the step after the last.
        """
        steps = range(start, stop)
        if self._resident is not None:
            yield from map(self.order, steps)
        else:
            yield from _ahead(self._gather, steps)

    def prepare(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """The task's batch: `index` and the normalised views. Graph code.

        Args:
            inputs: of one step, as `inputs` gives them.
        """
        batch = {"index": inputs["index"]}
        for number, (name, view) in enumerate(self.views.items()):
            if self._host:
                pixels = tf.cast(_own(inputs[name]), tf.float32) / 255.0
            else:
                pixels = tf.cast(self._pixels(inputs, view), tf.float32) / 255.0
                seed = tf.random.experimental.stateless_fold_in(inputs["seed"], number)
                crops = [self._policies[name](pixels, s) for s in _seeds(seed, view.count)]
                pixels = crops[0] if view.count == 1 else tf.concat(crops, axis=0)
            batch[name] = self.normalise(pixels)
        return batch

    def _pixels(self, inputs: Inputs, view: View) -> tf.Tensor:
        if self._resident is None:
            return _own(inputs[f"{view.of}_images"])
        rows = inputs["index"] if view.of == "anchor" else inputs["neighbor"]
        images = on_replicas.of_this_replica(self._resident)
        return tf.gather(images, on_replicas.own(rows))

    def _gather(self, step: int) -> Inputs:
        inputs: Inputs = dict(self.order(step))
        rows = {"anchor": inputs["index"], "neighbor": inputs.get("neighbor")}
        if not self._host:
            for of in {v.of for v in self.views.values()}:
                inputs[f"{of}_images"] = self._read(rows[of])
            return inputs
        for number, (name, view) in enumerate(self.views.items()):
            policy = self._host_policies[name]
            random = np.random.default_rng([self.order.seed, step, number])
            inputs[name] = np.stack(
                [
                    policy(self.images.images[row], random)
                    for _ in range(view.count)
                    for row in rows[view.of]
                ]
            )
        return inputs

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Images uint8 [B,S,S,3] at the rows int [B]; those for other processes are left black."""
        processes, images = self.replicas.processes, self.images.images
        if processes == 1:
            return images[rows]
        share = len(rows) // processes
        own = slice(self.replicas.number * share, (self.replicas.number + 1) * share)
        found = np.zeros((len(rows), *images.shape[1:]), np.uint8)
        found[own] = images[rows[own]]
        return found


class CachedLoader:
    """Views that are rows of cached features, for heads over a frozen backbone.

    On one device: a step is shorter than what replicas would say to each other.

    Args:
        features: for each view of the task `[V, N, D]`, V augmented views of every image; one is
            drawn for each use.
        views: the task's views.
        order: which images at which step.
    """

    # A step takes a millisecond or less.
    steps_per_call = 100

    def __init__(self, features: Mapping[str, np.ndarray], views: Mapping[str, View], order: Order):
        self.views = views
        self.order = order
        self.steps_per_epoch = order.steps_per_epoch
        # Most views are of the same array.
        arrays = {id(array): array for array in features.values()}
        flat = {key: _rows(array) for key, array in arrays.items()}
        self._rows = {name: (flat[id(a)], *a.shape[:2]) for name, a in features.items()}

    def inputs(self, start: int, stop: int) -> Iterator[Inputs]:
        """Inputs of the steps `start` to `stop - 1`."""
        yield from map(self.order, range(start, stop))

    def prepare(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """The task's batch: `index` and a feature row `[B, D]` for every view. Graph code."""
        batch = {"index": inputs["index"]}
        for number, (name, view) in enumerate(self.views.items()):
            rows = inputs["index"] if view.of == "anchor" else inputs["neighbor"]
            seed = tf.random.experimental.stateless_fold_in(inputs["seed"], number)
            flat, count, num_images = self._rows[name]
            # Left to choose, XLA would draw other numbers.
            drawn = tf.random.stateless_uniform(
                tf.shape(rows), seed, maxval=count, dtype=tf.int32, alg="philox"
            )
            batch[name] = tf.gather(flat, drawn * num_images + rows)
        return batch


def _rows(features: np.ndarray) -> tf.Tensor:
    return tf.convert_to_tensor(features.reshape(-1, features.shape[-1]))


def _seeds(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """A seed for each crop of a view; the first is the view's own."""
    fold = tf.random.experimental.stateless_fold_in
    return [seed, *(fold(seed, i) for i in range(1, count))]


def compiled(
    policy: policies.Policy, device: Device, replicas: Replicas = ALONE
) -> policies.Policy:
    """Inside a step that is not compiled as a whole, XLA still pays for the augmentation."""
    alone = device.jit_augment and not (device.jit_step and replicas.count == 1)
    if not alone:
        return policy

    @functools.cache  # the draws of a replica are its own
    def function(part: on_replicas.Part | None) -> policies.Policy:
        made: policies.Policy = tf.function(policy, jit_compile=True, autograph=False)
        return made

    return lambda images, seed: function(on_replicas.part())(images, seed)


def _own(values: tf.Tensor) -> tf.Tensor:
    """The rows of this replica of what lies in the memory of the host, cut before they travel."""
    if on_replicas.part() is None:
        return values
    with tf.device("CPU:0"):
        return on_replicas.own(values)


def _ahead(make: Callable[[int], Inputs], steps: range) -> Iterator[Inputs]:
    """Compute one step ahead in a thread, in order."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        pending = [pool.submit(make, s) for s in steps[:2]]
        for step in [*steps[2:], None, None][: len(steps)]:
            ready = pending.pop(0).result()
            if step is not None:
                pending.append(pool.submit(make, step))
            yield ready
