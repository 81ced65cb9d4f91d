"""What the stages that train have in common: batches in their order, and the loop."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from scan_tf import machine, replicas
from scan_tf.config import TrainConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import ConfigError, Diverged, StageError
from scan_tf.methods.task import Task
from scan_tf.pipeline import status
from scan_tf.pipeline.extend import SETTINGS
from scan_tf.pipeline.record import differences
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import SHARED, TRAINED
from scan_tf.replicas import Replicas
from scan_tf.training.loader import Loader, Order
from scan_tf.training.loop import Batches, EpochHook, Trainer

_log = logging.getLogger(__name__)


class Helped(Exception):
    """What follows the training of a stage is for the first process alone."""


def replicas_of(run: Run, stage: str) -> Replicas:
    """The devices of a stage; its networks are to be built in their `scope`.

    One where no backbone is trained; the search for neighbours is shared by processes.
    """
    if stage not in TRAINED:
        several = stage in SHARED and run.config.runtime.strategy == "multi_worker"
        return replicas.processes() if several else replicas.ALONE
    still = getattr(run.config.pretext, "frozen", False)
    still = still or (stage == "scan" and run.config.scan.freeze_backbone)
    if still:
        return replicas.ALONE
    if run.config.runtime.strategy == "multi_worker":
        return replicas.processes()
    return _devices(run.device.kind, run.device.replicas)


@functools.cache
def _devices(kind: str, count: int) -> Replicas:
    return Replicas([f"{kind.upper()}:{i}" for i in range(count)])


def check_replicas(run: Run) -> None:
    """Raise ConfigError where the batch of a stage cannot be divided among its devices."""
    for stage in TRAINED:
        section = getattr(run.config, stage)
        try:
            replicas_of(run, stage).check(section.batch_size if section.epochs else 0)
        except ConfigError as error:
            raise ConfigError(f"{stage}.{error}") from error


def check_statistics(network: Any) -> None:
    """Raise ConfigError where a layer of Keras would normalise by the rows of one replica."""
    layers = network._flatten_layers() if isinstance(network, keras.Model) else []
    for layer in layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        if norm and not layer.synchronized:
            raise ConfigError(
                f"model.backbone: its layer '{layer.path}' normalises the images of each replica "
                "by themselves. Make it with synchronized=True, or set runtime.strategy=none."
            )


def new_order(run: Run, stage: str, num_images: int, neighbors: np.ndarray | None = None) -> Order:
    """Which images make up each step of a stage. Raises ConfigError for too large a batch."""
    batch_size = getattr(run.config, stage).batch_size
    try:
        return Order(num_images, batch_size, seed=run.seed(stage), neighbors=neighbors)
    except ConfigError as error:
        raise ConfigError(f"{stage}.{error}") from error


def new_loader(
    run: Run, stage: str, images: ImageSet, task: Task, *, order: Order | None = None
) -> Loader:
    """The batches of a task over images; `order`: in another order than the stage's own.

    Raises:
        ConfigError: the batch, or a layer of the backbone, is not for the replicas of the stage.
    """
    places = replicas_of(run, stage)
    if places.count > 1:
        check_statistics(task.backbone)
    return Loader(
        images,
        task.views,
        order or new_order(run, stage, len(images)),
        normalise=task.normalise,
        augment_config=run.config.augment,
        runtime=run.config.runtime,
        device=run.device,
        replicas=places,
    )


def train(
    run: Run,
    config: TrainConfig,
    folder: Path,
    task: Task,
    loader: Batches,
    *,
    hook: EpochHook | None = None,
) -> None:
    """Train to the end; raises as `Trainer.run` does, and names the commands that go on.

    Raises:
        Helped: this process only helps, and has.
    """
    stage = next((stage for stage in TRAINED if run.folder(stage) == folder), None)
    owner = stage or folder.parent.name  # of heads that are warmed up
    helps = getattr(run, "helps", False)
    trainer = Trainer(
        task,
        loader,
        config,
        folder,
        runtime=run.config.runtime,
        device=run.device,
        hook=None if helps else hook,
        finish=stage is not None and stage == run.finish,
        when_known=functools.partial(status.tell, run, stage) if stage else None,
        belongs=belonging(run, owner),
        check=functools.partial(check_belonging, run, owner, folder),
    )
    try:
        trainer.run()
    except Diverged as error:
        rate = f"{owner}.optimizer.lr={config.optimizer.lr / 10:g}"
        ways = [f"anew, scan-tf run --run-dir {run.root} --redo {owner} {rate}"]
        if stage and any((folder / "ckpt").glob("*.npz")):
            ways.insert(0, f"from the last one, scan-tf run --run-dir {run.root} --extend {rate}")
        raise Diverged(f"{error} For example: {'; or '.join(ways)}") from error
    if helps and stage:
        raise Helped


def belonging(run: Run, stage: str) -> dict[str, Any]:
    """What a checkpoint of a stage belongs to: settings, images, and what computes."""
    split = "pretext" if stage == "pretext" and run.pretext_images is not run.train_images else None
    return {
        "settings": run.read_by(stage),
        "images": run.images_digest(split or "train"),  # type: ignore[arg-type]
        "dtype": run.device.dtype,
        "threads": machine.num_cpus(),
        "replicas": replicas_of(run, stage).count,
    }


def check_belonging(run: Run, stage: str, folder: Path, there: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of other settings, images or dtype; warn of other threads or replicas.

    Raises:
        StageError: it is another's; older checkpoints do not say.
    """
    if not there:
        return
    here = belonging(run, stage)
    allowed = {f"{stage}.{key}" for key in SETTINGS} if run.record(stage).extended else set()
    allowed.add("data.path")  # the images tell
    found = [
        f"{key} is {was!r} there, {now!r} here"
        for key, was, now in differences(there["settings"], here["settings"], run.defaults())
        if key not in allowed
    ]
    if there["images"] != here["images"]:
        found.append("it has learnt from other images")
    if there["dtype"] != here["dtype"]:
        found.append(f"it computed in {there['dtype']}, here it would be {here['dtype']}")
    if found:
        raise StageError(
            f"{folder / 'ckpt'}: the checkpoint is of another run: {'; '.join(found)}. Use another "
            f"--run-dir, or --redo {stage} to begin the stage anew."
        )
    there = {"replicas": 1, **there}
    for what in ("threads", "replicas"):
        if there[what] != here[what]:
            _log.warning(
                "%s: was begun with %d %s and goes on with %d: sums are made in another order, "
                "so that the last bits of the result differ from those of an uninterrupted run.",
                *(folder.name, there[what], what, here[what]),
            )
