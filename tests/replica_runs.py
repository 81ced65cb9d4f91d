"""Trainings on one device and on replicas, side by side: run by test_replicas.py as a process.

The logical devices of a CPU are made before TensorFlow starts, so that no test can make them. Every
command prints one JSON object a line.
"""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import argparse
import dataclasses
import functools
import json
import logging
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import small_tasks
import tensorflow as tf
from small_tasks import BATCH, PLAIN, trainer, values

from scan_tf import replicas
from scan_tf.config import OptimizerConfig
from scan_tf.errors import ConfigError
from scan_tf.machine import Device
from scan_tf.methods.losses import nt_xent
from scan_tf.methods.task import Task, View
from scan_tf.models.backbone import Backbone
from scan_tf.models.layers import BatchNorm, Linear
from scan_tf.replicas import ALONE, Replicas

# Of one step: what it changes is the gradient. Adam would blow rounding up where that is zero.
PLAIN_SGD = OptimizerConfig("sgd", lr=1.0, momentum=0.0, l2=0.0)
SGD = OptimizerConfig("sgd", lr=0.02, l2=1e-3, clip_norm=1.0)
# Twenty steps at 0.02 are enough for rounding to turn on a ReLU of Barlow Twins on one core, which
# moves its weights by 1.5e-4.
SLOWER = dataclasses.replace(SGD, lr=0.01)
# With seed 0 it turns one on in the fifth step of two replicas, and in none of four.
SEEDS = {"swav_crops": 1}


def among(count):
    return Replicas([f"CPU:{i}" for i in range(count)]) if count > 1 else ALONE


def learner(name, count, directory, optimizer, epochs=5, device=PLAIN, **runtime):
    keras.utils.set_random_seed(SEEDS.get(name, 0))
    places = among(count)
    with places.scope():
        task = small_tasks.make(name)
    how = {"augmented": True, "replicas": places, "device": device} | runtime
    source = small_tasks.loader(task, **how)
    return trainer(task, source, directory, optimizer=optimizer, epochs=epochs, device=device)


def furthest(ones, others):
    """The largest difference, beside the largest value of its array where that is above 1."""
    return max(
        float(np.abs(np.asarray(a, np.float64) - b).max() / max(1.0, np.abs(b).max()))
        for a, b in zip(ones, others, strict=True)
    )


def unequal(loop):
    """Names of the variables whose copies are not the same to the last bit."""
    found = []
    for name, variable in loop.state.items():
        inner = variable.value if isinstance(variable, keras.Variable) else variable
        copies = [np.asarray(copy.numpy()) for copy in inner.values]
        assert len(copies) == loop.replicas.count
        if any((copy != copies[0]).any() for copy in copies):
            found.append(name)
    return found


def one_step(name, count, directory, **options):
    """The loss of a step, op by op, the gradients, and all that the step leaves."""
    loop = learner(name, count, directory, PLAIN_SGD, **options)
    trained = loop.task.trainable_variables
    start, before = values(loop.state.values()), values(trained)
    loss = float(loop.calls.one(next(iter(loop.loader.inputs(0, 1))))["loss"])
    gradients = [old - new for old, new in zip(before, values(trained), strict=True)]
    return loop, start, loss, gradients


def step(names, counts, **options):
    """Compare a step of each task on so many replicas with one on one device."""
    tf.config.run_functions_eagerly(True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            alone, start, loss, gradients = one_step(name, 1, Path(folder), **options)
            for count in counts:
                loop, own_start, own_loss, own = one_step(name, count, Path(folder), **options)
                ends = values(loop.state.values()), values(alone.state.values())
                yield {
                    "name": name,
                    "replicas": count,
                    "start": furthest(own_start, start),
                    "loss": abs(own_loss - loss) / max(1.0, abs(loss)),
                    "gradient": furthest(own, gradients),
                    "largest": float(max(np.abs(g).max() for g in gradients)),
                    "state": furthest(*ends),
                    "unequal": unequal(loop),
                }


def train(names, counts, **options):
    """Compare twenty compiled steps of each task."""
    for name in names:
        ends = {}
        for count in [1, *counts]:
            with tempfile.TemporaryDirectory() as folder:
                loop = learner(name, count, Path(folder), SLOWER, **options)
                loop.run()
                rows = [json.loads(r) for r in (Path(folder) / "metrics.jsonl").open()]
            # Not the optimiser's: one ReLU that rounding turns on moves the last gradients more.
            ends[count] = values(loop.task.state), [row["loss"] for row in rows]
            if count == 1:
                continue
            yield {
                "name": name,
                "replicas": count,
                "steps": len(rows),
                "losses": float(np.abs(np.subtract(ends[count][1], ends[1][1])).max()),
                "weights": furthest(ends[count][0], ends[1][0]),
                "unequal": unequal(loop),
            }


class Small(keras.Model, Backbone):
    """A layer and BatchNorm, on rows of numbers."""

    def __init__(self):
        super().__init__(name="small")
        self.linear, self.norm = Linear(4, name="linear"), BatchNorm(name="norm")
        self.linear.build((None, 3))
        self.norm.build((None, 1, 1, 4))
        self.feature_dim = 4

    def call(self, x, training=False):
        return self.norm(self.linear(x)[:, None, None], training=training)[:, 0, 0]

    def copy(self, dtype):
        raise NotImplementedError


class Pairs(Task):
    """Two views of each row agree; some batches are skipped; the last features are kept."""

    def __init__(self):
        self.views = {"a": View("none"), "b": View("none")}
        self.networks = {"backbone": Small()}
        self.last = tf.Variable(tf.zeros([2 * BATCH, 4]), trainable=False, name="last")

    @property
    def extra_state(self):
        return [self.last]

    def loss(self, batch):
        both = self.backbone(tf.concat([batch["a"], batch["b"]], 0), training=True)
        self._features = both
        a, b = tf.split(tf.math.l2_normalize(both, -1), 2)
        skipped = tf.cast(batch["index"][0] % 5 == 0, tf.float32)
        return nt_xent(a, b, 0.5), {"skipped": skipped}

    def after_update(self, batch):
        features, self._features = self._features, None
        self.last.assign(features)


class Numbers(small_tasks.Given):
    """Batches of rows of numbers, of which a replica takes its own."""

    def __init__(self, places):
        random = np.random.default_rng(0)
        super().__init__(
            [
                {"index": np.arange(i, i + BATCH, dtype=np.int32)}
                | {view: random.standard_normal((BATCH, 3)).astype(np.float32) for view in "ab"}
                for i in range(10)
            ]
        )
        self.replicas = places

    def prepare(self, inputs):
        views = {view: replicas.own(inputs[view]) for view in "ab"}
        return {"index": inputs["index"], **views}


def pairs(directory, count, epochs):
    keras.utils.set_random_seed(0)
    places = among(count)
    with places.scope():
        task = Pairs()
    loop = trainer(task, Numbers(places), directory, optimizer=SGD, epochs=epochs)
    loop.run()
    return loop


def resume():
    """Thirty compiled steps: on one device; on two replicas, one device, and two again."""
    with tempfile.TemporaryDirectory() as folder:
        alone, path = pairs(Path(folder) / "alone", 1, 3), Path(folder) / "changing"
        for epochs, count in ((1, 2), (2, 1), (3, 2)):
            loop = pairs(path, count, epochs)
            differ = unequal(loop) if count > 1 else []
            with np.load(path / "ckpt" / "state.npz") as file:
                shapes = {name: file[name].shape for name in file.files if name != "manifest"}
            yield {
                "replicas": count,
                "steps": int(np.asarray(loop.step)),
                "updates": int(np.asarray(loop.optimizer.updates)),
                "unequal": differ,
                "shapes": sorted(map(str, shapes.items())),
            }
        keras.utils.set_random_seed(0)
        at_start = Pairs().backbone
        with np.load(Path(folder) / "alone" / "ckpt" / "state.npz") as file:
            shapes = {name: file[name].shape for name in file.files if name != "manifest"}
        yield {
            "updates": int(np.asarray(alone.optimizer.updates)),
            "shapes": sorted(map(str, shapes.items())),
            "weights": furthest(values(loop.state.values()), values(alone.state.values())),
            "moved": furthest(values(at_start.variables), values(alone.task.backbone.variables)),
        }


def refused():
    """What replicas cannot do."""
    for name in ("moco_symmetric",):
        try:
            list(step([name], [2]))
        except ConfigError as error:
            yield {"name": name, "message": str(error)}


def views():
    """The batches of two replicas, put together, and that of one device; by each kind of input."""
    jit = Device("cpu", "float32", jit_step=False, jit_augment=True)
    # The dear policies are those of the steps that are compared.
    policies = {"w": View("weak", count=2), "n": View("weak", of="neighbor")}
    task = small_tasks.make("simclr")
    task.views = policies
    for kind, how in {
        "resident": {},
        "compiled": {"device": jit},
        "streamed": {"resident_mib": 0},
        "host": {"backend": "host"},
    }.items():
        found = {}
        for count in (1, 2):
            places = among(count)
            source = small_tasks.loader(task, augmented=True, replicas=places, **how)
            inputs = next(iter(source.inputs(3, 4)))
            if count == 1:
                found[count] = tf.function(source.prepare, autograph=False)(inputs)
                continue

            def together(prepare, inputs):
                batch = prepare(inputs)
                mine = replicas.part()
                apart = {
                    name: tf.reshape(batch[name], [-1, mine.rows, *batch[name].shape[1:]])
                    for name in policies
                }
                gather = tf.distribute.get_replica_context().all_gather
                return {name: gather(rows, 1) for name, rows in apart.items()} | {
                    "index": batch["index"]
                }

            whole = functools.partial(together, source.prepare)
            run = functools.partial(places.run, whole, batch_size=BATCH)
            found[count] = tf.function(run, autograph=False)(inputs)
        names = [*policies, "index"]
        both = [[np.asarray(found[c][n]).reshape(found[1][n].shape) for n in names] for c in (2, 1)]
        yield {"kind": kind, "difference": furthest(*both)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "commands", nargs="+", choices=["step", "train", "resume", "refused", "views"]
    )
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--counts", nargs="*", type=int, default=[2])
    parser.add_argument("--plain", action="store_true", help="views that take no time to make")
    arguments = parser.parse_args()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    for command in arguments.commands:
        tf.config.run_functions_eagerly(False)
        takes_names = command in ("step", "train")
        given = (arguments.names, arguments.counts) if takes_names else ()
        options = {"augmented": not arguments.plain} if takes_names else {}
        for row in globals()[command](*given, **options):
            print(json.dumps({"command": command, **row}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
