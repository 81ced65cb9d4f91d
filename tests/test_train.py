"""The loop, on a task so small that a run of twenty steps takes a moment."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_tasks import PLAIN, QUIET, Given, make, trainer, values
from small_tasks import batch as batch_of
from small_tasks import loader as cached_loader

from scan_tf.config import OptimizerConfig
from scan_tf.errors import Diverged, Interrupted, NothingLearned, StageError, TrainingError
from scan_tf.methods.selflabel import confident
from scan_tf.methods.task import Task, View
from scan_tf.models.heads import ClusterHeads
from scan_tf.storage.files import read_metrics
from scan_tf.training import checkpoint

TESTS = pathlib.Path(__file__).parent
STEPS_PER_EPOCH, EPOCHS = 5, 4
RUNTIME = dataclasses.replace(QUIET, log_every=3)
COSINE = OptimizerConfig("sgd", lr=0.1, schedule="cosine", schedule_per="step")


class Toy(Task):
    """Regression of a row of numbers on itself; skips the batches that say so."""

    views = {"x": View("none")}

    def __init__(self, dim=3):
        keras.utils.set_random_seed(0)
        network = ClusterHeads(1, dim)
        network.build((None, dim))
        self.networks = {"backbone": network}
        self.updates = tf.Variable(0, name="updates")
        self.seen = tf.Variable(tf.zeros([dim, dim]), name="seen")

    @property
    def extra_state(self):
        return [self.updates, self.seen]

    def loss(self, batch):
        error = self.backbone(batch["x"])[0] - batch["x"]
        loss = tf.reduce_mean(error**2)
        return loss, {"bias": tf.reduce_sum(self.backbone.variables[1]), "skipped": batch["skip"]}

    def after_update(self, batch):
        self.updates.assign_add(1)
        self.seen.assign(self.backbone.variables[0])


class Hook:
    """Counts the epochs, and looks at the task as a real hook would."""

    def __init__(self, task):
        self.task = task
        self.record = {}

    def __call__(self, epoch):
        self.record.setdefault("epochs", []).append(epoch)
        return {"norm": float(np.linalg.norm(self.task.backbone.variables[0]))}


class Stopping(Given):
    """Sends a signal to this process when the batch of one of the given steps is asked for."""

    def __init__(self, batches, number, at):
        super().__init__(batches)
        self.number, self.at = number, at

    def inputs(self, start, stop):
        for step, inputs in enumerate(super().inputs(start, stop), start):
            if step in self.at and step >= start:
                self.at = self.at - {step}
                os.kill(os.getpid(), self.number)
            yield inputs


def toy_batches(count=STEPS_PER_EPOCH, skip=()):
    rows = np.random.default_rng(0).standard_normal((count, 8, 3)).astype(np.float32)
    return [{"x": x, "skip": np.float32(i in skip)} for i, x in enumerate(rows)]


def toy(directory, source=None, **options):
    task = Toy()
    options = {"optimizer": COSINE, "epochs": EPOCHS, "runtime": RUNTIME} | options
    hook = Hook(task)
    return trainer(task, source or Given(toy_batches()), directory, hook=hook, **options)


def outcome(loop):
    text = (loop.directory / "metrics.jsonl").read_text()
    return values(loop.state.values()), loop.hook.record, text


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    loop = toy(tmp_path_factory.mktemp("uninterrupted"))
    loop.run()
    return outcome(loop)


# What is written


def test_metrics_are_written_at_log_steps_and_at_the_end_of_epochs(uninterrupted):
    state, record, text = uninterrupted
    rows = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("}\n")
    assert [r["step"] for r in rows] == [3, 5, 6, 9, 10, 12, 15, 18, 20]
    assert [r["epoch"] for r in rows] == [r["step"] / STEPS_PER_EPOCH for r in rows]
    for row in rows:
        ends = row["step"] % STEPS_PER_EPOCH == 0
        expected = ["step", "epoch", "loss", "bias", "skipped", "lr"] + ["norm"] * ends
        assert list(row) == expected
    assert record == {"epochs": [1, 2, 3, 4]}
    assert state[0] == STEPS_PER_EPOCH * EPOCHS
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_metrics_are_means_since_the_last_row(uninterrupted, tmp_path):
    loop = toy(tmp_path, runtime=dataclasses.replace(RUNTIME, log_every=1))
    loop.run()
    single = read_metrics(tmp_path / "metrics.jsonl")
    assert len(single) == 20
    start = 0
    for row in map(json.loads, uninterrupted[2].splitlines()):
        window = single[start : row["step"]]
        for name in ("loss", "bias", "lr"):
            np.testing.assert_allclose(row[name], np.mean([r[name] for r in window]), rtol=1e-6)
        start = row["step"]
    expected = [1e-4 + (0.1 - 1e-4) * (1 + np.cos(np.pi * s / 20)) / 2 for s in range(20)]
    np.testing.assert_allclose([r["lr"] for r in single], expected, rtol=1e-5)


def test_tensorboard_is_optional(tmp_path):
    toy(tmp_path / "without", epochs=1).run()
    assert not (tmp_path / "without" / "tensorboard").exists()
    runtime = dataclasses.replace(RUNTIME, tensorboard=True)
    toy(tmp_path / "with", epochs=1, runtime=runtime).run()
    assert list((tmp_path / "with" / "tensorboard").glob("events*"))


def test_a_profile_of_some_steps_on_request(tmp_path, uninterrupted):
    loop = toy(tmp_path, runtime=dataclasses.replace(RUNTIME, profile=True))
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)
    (written,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"MatMul" in written.read_bytes()


def test_a_stage_that_ends_while_it_is_profiled_leaves_a_short_profile(tmp_path):
    toy(tmp_path, epochs=1, runtime=dataclasses.replace(RUNTIME, profile=True)).run()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_read_metrics_drops_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]


# Interruption


@pytest.mark.parametrize("at", [{0}, {1}, {4}, {11}, {3, 4, 17}, {19}])
def test_a_signal_saves_and_the_next_run_goes_on_bit_for_bit(tmp_path, uninterrupted, at):
    for step in sorted(at):
        loop = toy(tmp_path, Stopping(toy_batches(), signal.SIGTERM, {step}))
        with pytest.raises(Interrupted, match=f"^Stopped at step {step + 1} of 20; saved") as error:
            loop.run()
        assert error.value.exit_code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    loop = toy(tmp_path)
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)


def test_the_interrupt_key_is_a_signal_too(tmp_path):
    loop = toy(tmp_path, Stopping(toy_batches(), signal.SIGINT, {2}))
    with pytest.raises(Interrupted, match="Run the same command to go on.$") as error:
        loop.run()
    assert error.value.exit_code == 130


def test_an_interrupted_stage_is_finished_with_what_it_has_learnt(tmp_path):
    with pytest.raises(Interrupted):
        toy(tmp_path, Stopping(toy_batches(), signal.SIGTERM, {11})).run()
    loop = toy(tmp_path, finish=True)
    loop.run()
    state, record, text = outcome(loop)
    assert int(loop.step) == 12
    assert [json.loads(line)["step"] for line in text.splitlines()][-1] <= 12
    assert record
    # Where nothing was interrupted it trains as ever.
    fresh = toy(tmp_path / "fresh", finish=True)
    fresh.run()
    assert int(fresh.step) == STEPS_PER_EPOCH * EPOCHS


def test_a_stage_without_a_whole_epoch_is_not_finished(tmp_path):
    with pytest.raises(Interrupted):
        toy(tmp_path, Stopping(toy_batches(), signal.SIGTERM, {2})).run()
    with pytest.raises(TrainingError, match=r"first epoch has not ended \(step 3 of 5\)"):
        toy(tmp_path, finish=True).run()


def killed(directory, step):
    """What the killed process runs: it saves at every step but never gets to the given one."""
    source = Stopping(toy_batches(), signal.SIGKILL, {step})
    runtime = dataclasses.replace(RUNTIME, checkpoint_minutes=1e-9)
    toy(pathlib.Path(directory), source, runtime=runtime).run()


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, uninterrupted):
    code = f"import test_train; test_train.killed({str(tmp_path)!r}, 13)"
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()[-2000:]
    loop = toy(tmp_path)
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)


def test_what_was_logged_after_the_last_checkpoint_is_logged_again(tmp_path, uninterrupted):
    """The state of a process that was killed at step 18 and had saved at step 7."""
    with pytest.raises(Interrupted):
        toy(tmp_path, Stopping(toy_batches(), signal.SIGTERM, {6})).run()
    later = uninterrupted[2].replace('"loss": ', '"loss": 1')
    cut = len(later.splitlines()[-1]) // 2
    (tmp_path / "metrics.jsonl").write_text(
        "".join(uninterrupted[2].splitlines(True)[:3]) + "".join(later.splitlines(True)[3:])[:-cut]
    )
    loop = toy(tmp_path)
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)


def test_rows_of_a_run_without_a_checkpoint_are_dropped(tmp_path, uninterrupted):
    (tmp_path / "metrics.jsonl").write_text(uninterrupted[2])
    loop = toy(tmp_path)
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)


def test_a_run_that_has_ended_is_left_as_it_is(tmp_path, uninterrupted):
    toy(tmp_path).run()
    source = Stopping(toy_batches(), signal.SIGTERM, set(range(100)))
    loop = toy(tmp_path, source)
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    toy(tmp_path, epochs=1).run()
    other = trainer(Toy(dim=4), Given(toy_batches()), tmp_path, optimizer=COSINE)
    with pytest.raises(StageError, match=r"state.npz: \d+ of \d+ variables do not fit"):
        other.run()


# Many steps in one call


class Short(Stopping):
    """Batches whose steps are so short that many are made in one call."""

    steps_per_call = 100

    def __init__(self, batches=None, number=signal.SIGTERM, at=frozenset()):
        super().__init__(batches or toy_batches(), number, at)


HEADS = dataclasses.replace(PLAIN, jit_heads=True)


@pytest.mark.parametrize("log_every", [1, 2, 3, 50])
def test_many_steps_in_one_call_are_the_same_bit_for_bit(tmp_path, log_every):
    runtime = dataclasses.replace(RUNTIME, log_every=log_every)
    single = toy(tmp_path / "1", runtime=runtime)
    many = toy(tmp_path / "n", Short(), runtime=runtime)
    calls = []
    plain = many.calls._call
    many.calls._call = lambda rows: (calls.append(len(rows)), plain(rows))[1]
    for loop in (single, many):
        loop.run()
    np.testing.assert_equal(outcome(many), outcome(single))
    # No call goes past a log step or the end of an epoch of five steps.
    expected = {1: [], 2: [2, 2, 1, 1, 2, 2] * 2, 3: [3, 2, 1, 3, 1, 2, 3, 3, 2], 50: [5] * 4}
    assert calls == expected[log_every]


@pytest.mark.parametrize("device", [PLAIN, pytest.param(HEADS, marks=pytest.mark.slow)])
def test_how_steps_fall_into_calls_changes_no_bit(tmp_path, device):
    states = []
    for number, sizes in enumerate(([4], [1, 1, 1, 1], [1, 3])):
        keras.utils.set_random_seed(0)
        task = make("scan_cached")
        source = cached_loader(task)
        runtime = dataclasses.replace(QUIET, log_every=4)
        loop = trainer(task, source, tmp_path / str(number), device=device, runtime=runtime)
        inputs, losses = source.inputs(0, 4), []
        for size in sizes:
            rows = [next(inputs) for _ in range(size)]
            losses += loop.calls._call(rows)["loss"].numpy().tolist()
        states.append((losses, values(loop.state.values())))
    for state in states[1:]:
        np.testing.assert_equal(state, states[0])
    assert len(set(states[0][0])) == 4


@pytest.mark.parametrize("device", [PLAIN, pytest.param(HEADS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("at", [{0}, {3, 12, 17}])
def test_a_signal_between_calls_saves_and_the_next_run_goes_on(tmp_path, at, device):
    runtime = dataclasses.replace(RUNTIME, log_every=3)
    whole = toy(tmp_path / "whole", Short(), runtime=runtime, device=device)
    whole.run()
    for step in sorted(at):
        loop = toy(tmp_path / "cut", Short(at={step}), runtime=runtime, device=device)
        # The call that holds the step ends first, at the next log step or end of an epoch.
        ends = min(-(-(step + 1) // size) * size for size in (3, STEPS_PER_EPOCH))
        with pytest.raises(Interrupted, match=f"^Stopped at step {ends} of 20"):
            loop.run()
    loop = toy(tmp_path / "cut", Short(), runtime=runtime, device=device)
    loop.run()
    np.testing.assert_equal(outcome(loop), outcome(whole))


def test_a_skipped_batch_within_a_call_leaves_no_trace(tmp_path):
    skipping = toy_batches(skip={2})
    single, many = toy(tmp_path / "1", Given(skipping)), toy(tmp_path / "n", Short(skipping))
    for loop in (single, many):
        loop.run()
    np.testing.assert_equal(outcome(many), outcome(single))
    assert int(many.task.updates) == 16


def test_a_loss_that_is_not_finite_within_a_call_is_not_saved(tmp_path):
    runtime = dataclasses.replace(RUNTIME, log_every=6, checkpoint_minutes=1e-9)
    loop = toy(tmp_path, Short(bad_batches()), epochs=1, runtime=runtime)
    with pytest.raises(TrainingError, match="not finite between steps 7 and 12"):
        loop.run()
    # The same command goes on from before, and here gets past the place where it went wrong.
    loop = toy(tmp_path, Short(toy_batches(20)), epochs=1, runtime=runtime)
    loop.run()
    assert all(np.isfinite(v).all() for v in outcome(loop)[0])
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [6, 12, 18, 20]


def test_the_time_to_compile_is_told(tmp_path, capsys):
    runtime = dataclasses.replace(RUNTIME, progress=True)
    toy(tmp_path / "head", Short(), runtime=runtime, device=HEADS).run()
    toy(tmp_path / "head", Short(), runtime=runtime, device=HEADS).run()
    lines = re.findall(r"^  head: compiling .*$", capsys.readouterr().out, re.MULTILINE)
    assert len(lines) == 2  # a run that has ended compiles nothing
    assert lines[0] == "  head: compiling the training step (XLA) ..."
    assert re.fullmatch(r"  head: compiling \(XLA\) took \d+\.\d s", lines[1])


# What goes wrong in training


def bad_batches(at=8):
    batches = toy_batches(20)
    batches[at]["x"][0, 0] = np.nan
    return batches


def test_a_loss_that_is_not_finite_raises_with_the_steps(tmp_path):
    runtime = dataclasses.replace(RUNTIME, log_every=6)
    loop = toy(tmp_path, Given(bad_batches()), epochs=1, runtime=runtime)
    with pytest.raises(TrainingError, match="not finite between steps 7 and 12. Lower optimizer.l"):
        loop.run()
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [6]
    assert not (tmp_path / "ckpt").exists()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    runtime = dataclasses.replace(RUNTIME, log_every=50, checkpoint_minutes=1e-9)
    loop = toy(tmp_path, Given(bad_batches()), epochs=1, runtime=runtime)
    with pytest.raises(TrainingError, match="not finite between steps 1 and 9"):
        loop.run()
    # The same command goes on from before, and here gets past the place where it went wrong.
    loop = toy(tmp_path, Given(toy_batches(20)), epochs=1, runtime=runtime)
    loop.run()
    assert all(np.isfinite(v).all() for v in outcome(loop)[0])
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 20


class Breaking(Toy):
    """Its loss stays finite, and one of its variables does not."""

    def after_update(self, batch):
        super().after_update(batch)
        self.seen.assign(self.seen * tf.where(self.updates > 7, np.inf, 1.0))


def test_variables_that_are_not_finite_are_not_saved_either(tmp_path):
    runtime = dataclasses.replace(RUNTIME, checkpoint_minutes=1e-9)
    loop = trainer(Breaking(), Given(toy_batches()), tmp_path, epochs=4, runtime=runtime)
    with pytest.raises(Diverged, match=r"variables are not finite at step 8, such as ") as end:
        loop.run()
    state, before = tmp_path / "ckpt" / "state.npz", tmp_path / "ckpt" / "previous.npz"
    assert f"from before: {state} (step 7) and {before} (step 6)" in str(end.value)
    assert checkpoint.good(state) == [(state, 7), (before, 6)]


def test_a_damaged_checkpoint_names_the_one_before_which_goes_on_bit_for_bit(
    tmp_path, uninterrupted
):
    for step in (6, 12):
        with pytest.raises(Interrupted):
            toy(tmp_path, Stopping(toy_batches(), signal.SIGTERM, {step})).run()
    state, before = tmp_path / "ckpt" / "state.npz", tmp_path / "ckpt" / "previous.npz"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(StageError, match=f"To go on from there: mv {before} {state}$"):
        toy(tmp_path).run()
    before.rename(state)
    loop = toy(tmp_path)
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)


def test_a_checkpoint_says_what_it_belongs_to(tmp_path):
    seen = []
    source = Stopping(toy_batches(), signal.SIGTERM, {2})
    first = toy(tmp_path, source, belongs={"settings": 1}, check=seen.append)
    with pytest.raises(Interrupted):
        first.run()
    toy(tmp_path, belongs={"settings": 2}, check=seen.append).run()
    assert seen == [{"settings": 1}]


def test_rows_that_are_gone_are_noticed(tmp_path, caplog, uninterrupted):
    with pytest.raises(Interrupted):
        toy(tmp_path, Stopping(toy_batches(), signal.SIGTERM, {12})).run()
    log = tmp_path / "metrics.jsonl"
    first, second, *rest = log.read_text().splitlines(True)
    log.write_text("".join([first, second[:-9] + "\n", "3\n", *rest]))
    loop = toy(tmp_path)
    loop.run()
    assert f"{log}: 1 of {len(rest) + 2} rows are missing or damaged" in caplog.text
    np.testing.assert_equal(outcome(loop)[0], uninterrupted[0])


def test_a_skipped_batch_leaves_no_trace(tmp_path):
    constant = OptimizerConfig("adam", lr=0.01)
    batches = toy_batches()
    loops = []
    for name, source in (
        ("with", toy_batches(skip={2})),
        ("without", [b for i, b in enumerate(batches) if i != 2]),
    ):
        loops.append(toy(tmp_path / name, Given(source), optimizer=constant, epochs=2))
        loops[-1].run()
    skipping, other = loops
    assert (int(skipping.step), int(other.step)) == (10, 8)
    assert int(skipping.task.updates) == int(other.task.updates) == 8
    ours, theirs = (values([*x.task.state, *x.optimizer.state]) for x in loops)
    np.testing.assert_equal(ours, theirs)
    rows = read_metrics(tmp_path / "with" / "metrics.jsonl")
    assert rows[0]["skipped"] == pytest.approx(1 / 3)


def test_what_follows_the_update_sees_the_new_weights(tmp_path):
    loop = toy(tmp_path, epochs=1)
    loop.run()
    np.testing.assert_array_equal(loop.task.seen, loop.task.backbone.variables[0])


# Self-labelling


def selflabel(**settings):
    task = make("selflabel")
    return confident.Method(confident.Config(**settings), task.backbone, task.heads)


def test_selflabel_without_a_confident_image_changes_nothing_that_is_trained(
    tmp_path, seeded, eager
):
    task = selflabel(threshold=1.0, ema=0.9)
    loop = trainer(task, Given([batch_of(task)]), tmp_path, epochs=3)
    watched = [*task.trainable_variables, *task.averages.variables, *loop.optimizer.state]
    before, moving = values(watched), values(task.backbone.non_trainable_variables)
    with pytest.raises(NothingLearned, match="no step of the epoch was taken"):
        loop.run()
    np.testing.assert_equal(values(watched), before)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["loss"], r["skipped"], r["confident"]) for r in rows] == [(0, 1, 0)]
    # Both passes run in training mode, so BatchNorm's averages do move (official code).
    assert (values(task.backbone.non_trainable_variables)[0] != moving[0]).any()


def test_selflabel_keeps_a_moving_average_of_the_weights(tmp_path, seeded, eager):
    task = selflabel(threshold=0.3, ema=0.75)
    weights = [v for network in task.networks.values() for v in network.variables]
    expected = values(weights)
    loop = trainer(task, Given([batch_of(task)]), tmp_path)
    update = tf.function(loop.update, autograph=False)
    for _ in range(3):
        assert update(batch_of(task))["skipped"] == 0
        pairs = zip(expected, values(weights), strict=True)
        expected = [0.75 * average + 0.25 * new for average, new in pairs]
    for average, theirs in zip(values(task.averages.variables), expected, strict=True):
        np.testing.assert_allclose(average, theirs, rtol=1e-5, atol=1e-6)
    averages = values(task.averages.variables)
    assert (averages[0] != np.asarray(weights[0])).any()
    task.finish()
    np.testing.assert_equal(values(weights), averages)


def test_selflabel_without_ema_ends_with_its_weights(seeded):
    task = selflabel()
    before = values(task.state)
    task.finish()
    np.testing.assert_equal(values(task.state), before)
    assert task.extra_state == []


def test_a_directory_may_be_moved(tmp_path, uninterrupted):
    with pytest.raises(Interrupted):
        toy(tmp_path / "a", Stopping(toy_batches(), signal.SIGTERM, {6})).run()
    shutil.move(tmp_path / "a", tmp_path / "b")
    loop = toy(tmp_path / "b")
    loop.run()
    np.testing.assert_equal(outcome(loop), uninterrupted)
