"""THE training loop: one compiled update, sequenced by Python.

An update goes batch -> loss -> gradients -> optimizer -> after_update -> metrics. The loop runs
every stage. Metrics stay on the device until a log step. A checkpoint holds the step and every
variable, and the batches are a pure function of the step, so an interrupted run that goes on ends
with the same weights, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from scan_tf import signals
from scan_tf.config import RuntimeConfig, TrainConfig
from scan_tf.errors import Diverged, Interrupted, NothingLearned, TrainingError
from scan_tf.machine import Device
from scan_tf.methods.task import Task
from scan_tf.replicas import ALONE, mean, part
from scan_tf.storage import files
from scan_tf.storage.writing import sync
from scan_tf.training import checkpoint
from scan_tf.training.calls import Call, Calls, scalars
from scan_tf.training.loader import Inputs
from scan_tf.training.optim import Optimizer, Schedule
from scan_tf.training.profiler import profiled
from scan_tf.training.progress import Progress

_log = logging.getLogger(__name__)


class Batches(Protocol):
    """What the loop needs of a loader.

    One that also has `steps_per_call` has steps so short that calling them one by one would cost
    more than they do; so many are then made in one compiled call. One that also has `replicas`
    prepares on each of them its own rows of the batch.
    """

    steps_per_epoch: int

    def inputs(self, start: int, stop: int) -> Iterator[Inputs]:
        """Plain data of each step."""

    def prepare(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """Graph code that makes the task's batch."""


class EpochHook(Protocol):
    """Called after every epoch; `record` is JSON-able and travels with the checkpoint.

    One that also has `settled` ends the training after an epoch for which it is true.
    """

    record: dict[str, Any]

    def __call__(self, epoch: int) -> dict[str, float]:
        """Metrics of the epoch (counted from 1) to log."""


class Trainer:
    """One training stage.

    Args:
        task: what to minimise.
        loader: where batches come from.
        config: epochs and optimiser.
        directory: receives `metrics.jsonl`, `ckpt/`, `tensorboard/` and `profile/`.
        runtime: logging, checkpointing and profiling.
        device: whether the step is compiled by XLA.
        hook: called after every epoch.
        finish: make no step where there is a checkpoint; what it holds is the result.
        when_known: called once with the `Progress`, when the rate means something.
        belongs: what a checkpoint of this stage belongs to, JSON-able; it travels with it.
        check: called with the `belongs` of the checkpoint that is gone on from; raises where it
            belongs to something else.
    """

    def __init__(
        self,
        task: Task,
        loader: Batches,
        config: TrainConfig,
        directory: Path,
        *,
        runtime: RuntimeConfig,
        device: Device,
        hook: EpochHook | None = None,
        finish: bool = False,
        when_known: Callable[[Progress], None] | None = None,
        belongs: Mapping[str, Any] | None = None,
        check: Callable[[Mapping[str, Any]], None] | None = None,
    ):
        self._belongs, self._check = dict(belongs or {}), check
        self.task, self.loader, self.config = task, loader, config
        self.directory, self.runtime, self.hook = directory, runtime, hook
        self._finish, self._when_known = finish, when_known
        self._progress: Progress | None = None
        self.replicas = getattr(loader, "replicas", ALONE)
        with self.replicas.scope():
            self.optimizer = Optimizer(
                config.optimizer, task.trainable_variables, task.constant_rate_variables
            )
            self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.schedule = Schedule(
            config.optimizer, epochs=config.epochs, steps_per_epoch=loader.steps_per_epoch
        )
        self.total_steps = config.epochs * loader.steps_per_epoch
        per_call = getattr(loader, "steps_per_call", 1)
        self.calls = Calls(
            lambda inputs: self.replicas.run(self.update, inputs, config.batch_size),
            most=per_call,
            # There is something to write after these steps.
            ends=(runtime.log_every, loader.steps_per_epoch),
            jit=device.jit_heads if per_call > 1 else device.jit_step and self.replicas.count == 1,
        )
        self._window: list[dict[str, Any]] = []
        self._rows = 0
        self._checkpoint = directory / "ckpt" / "state.npz"
        self._log = directory / "metrics.jsonl"

    def update(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """One step of training; the one place where variables change. Graph code."""
        batch = self.loader.prepare(inputs)
        # What `loss` leaves in it for `after_update` is that of this replica.
        task = copy.copy(self.task) if part() else self.task
        loss, metrics, gradients = self.optimizer.gradients(lambda: task.loss(batch))
        rate = self.schedule(self.step)

        def apply() -> tf.Tensor:
            self.optimizer.apply(gradients, rate)
            task.after_update(batch)
            return tf.constant(True)

        if "skipped" in metrics:  # by none or by all replicas
            tf.cond(mean([metrics["skipped"]])[0] > 0, lambda: tf.constant(False), apply)
        else:
            apply()
        self.step.assign_add(1)
        return {"loss": loss, **metrics, "lr": rate}

    def run(self) -> None:
        """Train to the end, from the last checkpoint where there is one.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the state has been saved.
            Diverged: the loss or a variable is not finite.
            TrainingError: there is no whole epoch to finish with.
            NothingLearned: every step of the first epoch was skipped.
            StageError: the checkpoint is damaged, or belongs to something else.
        """
        start = self._restore()
        steps_per_epoch = self.loader.steps_per_epoch
        if self._finish and start:
            if start < steps_per_epoch:
                raise TrainingError(
                    f"{self.directory}: the first epoch has not ended (step {start} of "
                    f"{steps_per_epoch}), so that there is nothing to finish with yet."
                )
            with Progress(self.directory, self.total_steps, start, shown=False):
                return
        if settled := self._settled:
            return
        saved, shown = time.monotonic(), self.runtime.progress
        progress = Progress(
            self.directory, self.total_steps, start, shown=shown, when_known=self._when_known
        )
        with signals.Deferred() as deferred, progress, self._writer() as writer:
            self._progress = progress
            steps = self.steps(start)
            if self.runtime.profile:
                steps = profiled(steps, self.directory / "profile")
            for step, metrics in steps:
                self._window.append(metrics)
                deferred.holds = True
                progress.update(step)
                epoch, position = divmod(step, steps_per_epoch)
                if step % self.runtime.log_every == 0 or position == 0:
                    row = self._means(step)
                    if position == 0 and self.hook is not None:
                        row |= self.hook(epoch)
                    self._write(row, writer)
                    progress.log(row)
                    skips = position == 0 and "skipped" in row
                    if skips and not self.optimizer.updates.numpy():
                        raise NothingLearned(f"{self.directory}: no step of the epoch was taken.")
                due = time.monotonic() - saved > 60 * self.runtime.checkpoint_minutes
                settled = position == 0 and self._settled
                ended = step == self.total_steps or settled
                if due or deferred.received or ended:
                    self._save(step)
                    saved = time.monotonic()
                    deferred.holds = False
                if deferred.received:
                    raise Interrupted(
                        deferred.received,
                        f"Stopped at step {step} of {self.total_steps}; saved in {self.directory}. "
                        "Run the same command to go on.",
                    )
                if settled:
                    return

    def steps(self, start: int) -> Iterator[Call]:
        """Make the steps from `start` on; after each call, how many are done and its metrics."""
        inputs, progress = self.loader.inputs(start, self.total_steps), self._progress
        how = "XLA" if self.calls.jit else "no XLA"
        if progress and start < self.total_steps:
            progress.announce(how)
        for number, call in enumerate(self.calls(inputs, start, self.total_steps)):
            if progress and number == 0:
                progress.compiled(how)
            yield call

    @property
    def state(self) -> dict[str, Any]:
        """Every variable of the training by its name, in a fixed order."""
        named = self.task.named_state
        names = {id(variable): name for name, variable in named.items()}
        trained = [names[id(variable)] for variable in self.task.trainable_variables]
        slots = {
            f"optimizer/{kind}/{name}": slot
            for kind, variables in self.optimizer.slots.items()
            for name, slot in zip(trained, variables, strict=True)
        }
        return {"step": self.step, **named, "optimizer/updates": self.optimizer.updates, **slots}

    @property
    def _settled(self) -> bool:
        """Whether the hook says that there is nothing more to learn."""
        return bool(self.replicas.agreed(getattr(self.hook, "settled", False)))

    def _save(self, step: int) -> None:
        window = self._finite(step)
        self._window = list(window)
        extra: dict[str, Any] = {"window": window, "hook": self.hook.record if self.hook else {}}
        extra |= {"belongs": self._belongs, "rows": self._rows}
        if self._log.exists():
            sync(self._log)  # its rows are counted on from here
        try:
            checkpoint.save_state(self._checkpoint, self.state, step=step, extra=extra)
        except Diverged as error:
            raise Diverged(f"{error} {self._advice()}") from error

    def _restore(self) -> int:
        step = known = 0
        if self._checkpoint.exists():
            step, extra = checkpoint.restore_state(self._checkpoint, self.state)
            if self._check is not None:
                self._check(extra.get("belongs", {}))
            self._window, known = extra["window"], extra.get("rows", 0)
            if self.hook is not None:
                self.hook.record.update(extra["hook"])
        rows = [r for r in files.read_metrics(self._log) if r.get("step", step + 1) <= step]
        if len(rows) < known:
            _log.warning(
                "%s: %d of %d rows are missing or damaged; the curves have a gap, the training "
                "goes on exactly.",
                *(self._log, known - len(rows), known),
            )
        files.write_text(self._log, "".join(json.dumps(r) + "\n" for r in rows))
        self._rows = len(rows)
        self.replicas.follow_first([*self.state.values()])
        return step

    def _means(self, step: int) -> dict[str, float]:
        """Means of the metrics since the last log."""
        rows = self._finite(step)
        self._window = []
        epoch = round(step / self.loader.steps_per_epoch, 4)
        means = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
        return {"step": step, "epoch": epoch, **means}

    def _finite(self, step: int) -> list[dict[str, float]]:
        """The metrics since the last log, as numbers; refuses a loss that is not finite."""
        rows = [row for metrics in self._window for row in scalars(metrics)]
        if not all(math.isfinite(r["loss"]) for r in rows):
            raise Diverged(
                f"The loss is not finite between steps {step - len(rows) + 1} and {step}. "
                f"{self._advice()}"
            )
        return rows

    def _advice(self) -> str:
        """What to do after a divergence, and from which checkpoint it goes on."""
        found = [f"{file} (step {step})" for file, step in checkpoint.good(self._checkpoint)]
        kept = f"from before: {' and '.join(found)}" if found else "none yet"
        return (
            "Lower optimizer.lr, set optimizer.clip_norm, or use runtime.dtype=float32. The last "
            f"checkpoints are {kept}."
        )

    def _write(self, row: dict[str, float], writer: tf.summary.SummaryWriter | None) -> None:
        with files.room(self._log), open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._rows += 1
        if writer is not None:
            with writer.as_default(step=int(row["step"])):
                for name, value in row.items():
                    tf.summary.scalar(name, value)

    @contextlib.contextmanager
    def _writer(self) -> Iterator[tf.summary.SummaryWriter | None]:
        if not self.runtime.tensorboard:
            yield None
            return
        writer = tf.summary.create_file_writer(str(self.directory / "tensorboard"))
        try:
            yield writer
        finally:
            writer.close()
