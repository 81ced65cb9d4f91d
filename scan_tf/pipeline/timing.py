"""Fitting a run to a time, and ending a stage before its end."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from scan_tf import config as configs
from scan_tf.errors import ConfigError, StageError
from scan_tf.pipeline import build, learning, plan
from scan_tf.pipeline.plan import Seen
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import TRAINED
from scan_tf.training.loop import Trainer
from scan_tf.training.progress import duration

# So much of the time is for what an estimate misses.
_RESERVE = 0.1
# So long steps are timed, so many at least.
_TIMED_S, _TIMED_STEPS = 5.0, 4


def fit(run: Run, budget_s: float, start: float) -> None:
    """Set the epochs of a run so that all stages take about `budget_s` seconds, and say so.

    A run directory that has been begun keeps the epochs that were chosen then.

    Args:
        run: the run; its config is replaced.
        budget_s: the time for everything.
        start: `time.monotonic()` from which it counts.

    Raises:
        ConfigError: the time is too short for one epoch of each stage.
    """
    stored = run.root / "config.yaml"
    if stored.exists():
        run.config = _with_epochs_of(run.config, configs.load(stored))
        print(f"--minutes: the epochs stay as they were chosen: {_epochs_of(run.config)}")
        return
    if budget_s <= 0:
        raise ConfigError(f"--minutes: expected a number > 0, got {budget_s / 60:g}.")
    print("timing some steps ...")
    seen = measure(run)
    spent = time.monotonic() - start
    whole = run.config.pretext.epochs
    run.config = plan.within(run.config, seen, budget_s * (1 - _RESERVE) - spent)
    seen = dataclasses.replace(seen, total=seen.total * run.config.pretext.epochs // whole)
    told = plan.remaining(run.config, {"pretext": seen})
    print(
        f"--minutes {budget_s / 60:g}: {_epochs_of(run.config)}. Planned: {plan.in_words(told)}, "
        f"after {duration(spent + seen.compile_s)} for reading, timing and compiling"
    )


def _epochs_of(config: configs.Config) -> str:
    return ", ".join(f"{stage} {getattr(config, stage).epochs} epochs" for stage in TRAINED)


def _with_epochs_of(config: configs.Config, other: configs.Config) -> configs.Config:
    changed = {
        stage: dataclasses.replace(getattr(config, stage), epochs=getattr(other, stage).epochs)
        for stage in TRAINED
    }
    return dataclasses.replace(config, **changed)


def measure(run: Run) -> Seen:
    """Time some steps of the pretext; what they learn is thrown away.

    Raises:
        ConfigError: it trains nothing, so that no other stage's time can be told from it.
    """
    task = build.new_pretext(run)
    if not task.views:
        raise ConfigError(
            f"--minutes: the pretext '{run.config.pretext.name}' trains nothing that could be "
            "timed. Give scan.epochs and selflabel.epochs."
        )
    loader = learning.new_loader(run, "pretext", run.pretext_images, task)
    runtime = dataclasses.replace(run.config.runtime, progress=False, tensorboard=False)
    with tempfile.TemporaryDirectory(prefix="scan_tf-") as folder:
        trainer = Trainer(
            task, loader, run.config.pretext, Path(folder), runtime=runtime, device=run.device
        )
        times: list[float] = [time.monotonic()]
        for _, metrics in trainer.steps(0):
            np.asarray(metrics["loss"])  # waits for the device
            times.append(time.monotonic())
            if len(times) > _TIMED_STEPS + 1 and times[-1] - times[1] > _TIMED_S:
                break
    # Of a run of one step, that step.
    timed = times[1:] if len(times) > 2 else times
    rate = (len(timed) - 1) / (timed[-1] - timed[0])
    return Seen(0, trainer.total_steps, rate, times[1] - times[0])


def finish(run: Run) -> None:
    """Have the stage that was interrupted end with what it has learnt so far.

    Raises:
        StageError: no stage was interrupted while it trained.
    """
    begun = [s for s in TRAINED if run.record(s).has_begun and not run.record(s).is_done]
    if not any((run.folder(s) / "ckpt" / "state.npz").exists() for s in begun):
        raise StageError(f"{run.root}: --finish: no stage was interrupted while it trained.")
    run.finish = begun[0]
