"""Fitting a run to a time, and ending a stage before its end."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import config as configs
from scan_tf.errors import ConfigError, StageError
from scan_tf.pipeline import build, decided, deciding, learning, plan, scan, stages
from scan_tf.pipeline.plan import Seen
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import TRAINED, up_to
from scan_tf.training.loop import Trainer
from scan_tf.training.progress import duration

# So much of the time is for what an estimate misses.
_RESERVE = 0.1
# So long steps are timed, so many calls of them at least.
_TIMED_S, _TIMED_CALLS = 5.0, 4


def fit(run: Run, budget_s: float, start: float, *, asked: bool = True) -> None:
    """Set the epochs of a run so that all stages take about `budget_s` seconds, and say so.

    Heads on the features of a finished network learn nothing more in more epochs than their recipe
    has: those it gets at most.

    What comes before the first training is done on the way: the features of a pretext that trains
    nothing, and their neighbours. A run that has trained keeps the epochs that were chosen then.

    Args:
        run: the run; its config is replaced.
        budget_s: the time for everything.
        start: `time.monotonic()` from which it counts.
        asked: whether somebody asked for this time: all of it is used, and too little is refused.
            Otherwise the run gets no more epochs than it has, and at least one of each stage.

    Raises:
        ConfigError: the time is too short for one epoch of each stage, or there are no epochs to
            choose.
        ScanError: as the stages that come before the first training.
    """
    trained = plan.trained(run.config)
    if not trained:
        if not asked:
            return
        raise ConfigError("--minutes: no stage of this run has epochs to choose. Leave it out.")
    if run.record(trained[0]).has_begun:
        stored = configs.load(run.root / configs.COPY)
        run.config = plan.with_epochs(run.config, {s: getattr(stored, s).epochs for s in TRAINED})
        if asked:
            print(f"--minutes: the epochs stay as they were chosen: {_epochs_of(run.config)}")
        return
    if budget_s <= 0:
        raise ConfigError(f"--minutes: expected a number > 0, got {budget_s / 60:g}.")
    for stage in up_to(trained[0])[:-1]:
        stages.run_stage(run, stage)
    if run.is_done("neighbors"):
        deciding.decide(run)
    print("timing some steps ...")
    # The stages after a pretext that trains start from what it has learnt.
    timed = trained[:1] if trained[0] == TRAINED[0] else trained
    seen = {stage: measure(run, stage) for stage in timed}
    spent = time.monotonic() - start
    later = decided.seconds(run)
    left_s = budget_s * (1 - _RESERVE) - spent - later
    stretch = asked and trained[0] == TRAINED[0]
    try:
        chosen, told = plan.within(run.config, seen, left_s, stretch=stretch)
    except ConfigError:
        if asked:
            raise
        print(f"one epoch of each stage takes longer than {budget_s / 60:g} minutes here.")
        chosen = plan.with_epochs(run.config, dict.fromkeys(trained, 1))
        told = plan.whole(chosen, run.config, seen)
    run.config = chosen
    told["neighbors"] = told.get("neighbors", 0.0) + later
    label = "--minutes" if asked else "--minutes is not given, so at most"
    left = {s: t for s, t in told.items() if not run.record(s).is_done}
    print(
        f"{label} {budget_s / 60:g}: {_epochs_of(run.config)}. Planned: about "
        f"{duration(spent + sum(left.values()))} in all, of which {duration(spent)} are over; then "
        f"{plan.in_parts(left)}"
    )


def _epochs_of(config: configs.Config) -> str:
    return ", ".join(f"{s} {getattr(config, s).epochs} epochs" for s in plan.trained(config))


def measure(run: Run, stage: str) -> Seen:
    """Time some steps of a stage that trains; what they learn is thrown away."""
    runtime = dataclasses.replace(run.config.runtime, progress=False, tensorboard=False)
    with tempfile.TemporaryDirectory(prefix="scan_tf-") as name:
        folder, config = Path(name), getattr(run.config, stage)
        task, loader, hook = _parts(run, stage, folder)
        trainer = Trainer(task, loader, config, folder, runtime=runtime, device=run.device)
        times, done = [time.monotonic()], [0]
        for step, metrics in trainer.steps(0):
            np.asarray(metrics["loss"])  # waits for the device
            epoch, position = divmod(step, loader.steps_per_epoch)
            if hook is not None and position == 0:
                hook(epoch)
            times.append(time.monotonic())
            done.append(step)
            if len(times) > _TIMED_CALLS + 1 and times[-1] - times[1] > _TIMED_S:
                break
    # The first call is compiled; of a stage of one call, that call.
    first = 1 if len(times) > 2 else 0
    rate = (done[-1] - done[first]) / (times[-1] - times[first])
    return Seen(0, trainer.total_steps, rate, times[1] - times[0])


def _parts(run: Run, stage: str, folder: Path) -> Any:
    """Task and batches of a stage as it begins, and what follows each of its epochs."""
    if stage == "scan":
        return scan.prepared(run, folder)
    if stage == "pretext":
        with learning.replicas_of(run, stage).scope():
            pretext = build.new_pretext(run)
        return pretext, learning.new_loader(run, stage, run.pretext_images, pretext), None
    with learning.replicas_of(run, stage).scope():
        backbone = build.trained_pretext(run).backbone
        task = build.new_selflabel(run, backbone, build.new_heads(run, backbone, 1))
        if task.needs_clustering:  # any will do
            index = np.arange(len(run.train_images))
            clusters = np.eye(run.num_clusters, dtype=np.float32)[index % run.num_clusters]
            with contextlib.redirect_stdout(io.StringIO()):
                task.begin(clusters, np.stack([index, index], axis=1))
    return task, learning.new_loader(run, stage, run.train_images, task), None


def finish(run: Run) -> None:
    """Have the stage that was interrupted end with what it has learnt so far.

    Raises:
        StageError: no stage was interrupted while it trained.
    """
    begun = [s for s in TRAINED if run.record(s).has_begun and not run.record(s).is_done]
    if not any((run.folder(s) / "ckpt" / "state.npz").exists() for s in begun):
        raise StageError(f"{run.root}: --finish: no stage was interrupted while it trained.")
    run.finish = begun[0]
