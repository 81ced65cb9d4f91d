"""What the stages that train have in common: batches in their order, and the loop."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from scan_tf.config import TrainConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import ConfigError
from scan_tf.methods.task import Task
from scan_tf.pipeline import status
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import TRAINED
from scan_tf.training.loader import Loader, Order
from scan_tf.training.loop import Batches, EpochHook, Trainer


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
    """The batches of a task over images; `order`: in another order than the stage's own."""
    return Loader(
        images,
        task.views,
        order or new_order(run, stage, len(images)),
        normalise=task.normalise,
        augment_config=run.config.augment,
        runtime=run.config.runtime,
        device=run.device,
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
    """Train to the end; raises as `Trainer.run` does."""
    stage = next((stage for stage in TRAINED if run.folder(stage) == folder), None)
    trainer = Trainer(
        task,
        loader,
        config,
        folder,
        runtime=run.config.runtime,
        device=run.device,
        hook=hook,
        finish=stage is not None and stage == run.finish,
        when_known=functools.partial(status.tell, run, stage) if stage else None,
    )
    trainer.run()
