"""What every task must do, run over all of them; a new pretext's file is found by itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import small_tasks
import tensorflow as tf
from small_tasks import BATCH, FAST, NAMES, SIZE, Given, batch, loader, trainer, values

from scan_tf import config
from scan_tf.config import OptimizerConfig, PretextConfig
from scan_tf.errors import ConfigError
from scan_tf.methods import catalog, pretext
from scan_tf.methods.task import Pretext, Task
from scan_tf.storage.files import read_metrics
from scan_tf.training import checkpoint

PRETEXTS = catalog.available()
every_task = pytest.mark.parametrize("name", NAMES)
every_pretext = pytest.mark.parametrize("name", small_tasks.PRETEXTS)


def slow_but(*fast: str) -> pytest.MarkDecorator:
    """Every task, of which these alone are among the fast tests."""
    assert set(fast) <= set(NAMES)
    return pytest.mark.parametrize(
        "name", [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
    )


# What differs from another task in an option is slow, and what differs in its loss alone.
ALIKE = (*small_tasks.VARIANTS, "barlow_twins", "dcl", "vicreg", "scan_heads")
every_kind = slow_but(*(n for n in NAMES if n not in ALIKE))


def make(name: str, seed: int = 0, dtype: str = "float32", **options: Any) -> Task:
    keras.utils.set_random_seed(seed)
    return small_tasks.make(name, dtype, **options)


@functools.cache
def shared_task(name: str) -> Task:
    """One for tests that do not mind what became of its running averages."""
    return make(name)


@functools.cache
def shared_batch(name: str, step: int) -> dict[str, tf.Tensor]:
    return batch(shared_task(name), step=step)


class Training:
    """A task whose real batches are taken one after the other, without compiling."""

    def __init__(self, name: str, directory: Path, seed: int = 0):
        self.task = make(name, seed)
        self.source = loader(self.task)
        # Without L2, all that moves a weight is its gradient.
        optimizer = dataclasses.replace(FAST, l2=0.0)
        self.loop = trainer(self.task, self.source, directory, optimizer=optimizer)

    def values(self) -> list[np.ndarray]:
        return values(self.loop.state.values())

    def step(self, number: int) -> tuple[float, list[np.ndarray]]:
        """The loss of a step, and all that is saved after it."""
        (inputs,) = self.source.inputs(number, number + 1)
        return float(self.loop.update(inputs)["loss"]), self.values()


class Steps:
    """The first two steps of a task, and a checkpoint between them."""

    def __init__(self, name: str, directory: Path):
        training = Training(name, directory)
        self.task, self.path = training.task, directory / "state.npz"
        self.start, self.state = training.values(), values(training.task.state)
        self.first = training.step(0)
        checkpoint.save_state(self.path, training.loop.state, step=1, extra={})
        self.second = training.step(1)


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Callable[[str], Steps]:
    return functools.cache(lambda name: Steps(name, tmp_path_factory.mktemp(name)))


class SameQueue:
    """Puts a queue, or a teacher, back after every step: what is learned is to stay the same."""

    record = {}

    def __init__(self, task: Task):
        found = [getattr(task, name, None) for name in ("queue", "prior")]
        found += getattr(task, "teacher", [])
        self.queues = [(v, values([v])[0]) for v in found if v is not None]

    def __call__(self, epoch: int) -> dict:
        for queue, rows in self.queues:
            queue.assign(rows)
        return {}


HEADS_ONLY = ("scan_frozen", "scan_cached", "temi", "selflabel_cached")


@every_kind
def test_steps_train_what_the_task_says(name, steps):
    task, start = steps(name).task, steps(name).state
    trained = {id(v) for v in task.trainable_variables}
    frozen = {id(v) for v in task.backbone.variables} if name in HEADS_ONLY else set()
    pairs = zip(task.state, start, strict=True)
    changed = {id(v) for v, before in pairs if (np.asarray(v) != before).any()}
    assert trained <= changed
    assert not changed & frozen


# What differs from one of these in an option, takes a deep network or has a loss like that of
# another is slow.
@slow_but("simclr")
def test_it_learns_one_batch_by_heart(name, tmp_path):
    # Against many negatives a single block learns too slowly.
    deep = name in ("moco", "moco_symmetric", "decoupling_sampled")
    task = make(name, blocks=small_tasks.RESNET10 if deep else small_tasks.BLOCKS)
    optimizer = dataclasses.replace(FAST, l2=0.0, lr=FAST.lr if deep else 0.01)
    heads_only = name in HEADS_ONLY
    epochs = 60 if heads_only else 20  # a linear layer alone learns slowly
    loop = {"optimizer": optimizer, "epochs": epochs, "hook": SameQueue(task)}
    # Views that have nothing to do with each other leave a lot to learn.
    given = batch(task, augmented=deep)
    if not deep:
        views = enumerate(task.views)
        given |= {v: tf.random.stateless_normal(given[v].shape, [7, n]) for n, v in views}
    trainer(task, Given([given]), tmp_path, **loop).run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    found = [r["loss"] for r in rows]
    assert np.isfinite([list(r.values()) for r in rows]).all()
    # Linear heads cannot do much with features of noise.
    enough = 0.005 if heads_only else 0.05 * abs(found[0])
    assert np.mean(found[-3:]) < found[0] - enough


@every_task
def test_the_state_is_every_variable_once(name):
    task = shared_task(name)
    ours = [id(v) for v in task.state]
    assert len(ours) == len(set(ours))
    networks = [v for n in task.networks.values() for v in n.variables]
    assert {id(v) for v in [*networks, *task.trainable_variables]} <= set(ours)
    assert task.networks["backbone"] is task.backbone


@every_kind
def test_the_names_of_the_state_are_the_same_in_every_run(name, tmp_path):
    tasks = shared_task(name), make(name)
    first, second = (trainer(t, loader(t), tmp_path).state for t in tasks)
    assert list(first) == list(second)
    assert [v.shape for v in first.values()] == [v.shape for v in second.values()]
    assert len({id(v) for v in first.values()}) == len(first)


@every_task
def test_batches_hold_the_declared_views_and_no_label(name):
    assert set(shared_batch(name, 0)) == {*shared_task(name).views, "index"}


@every_task
def test_the_loss_uses_every_declared_view(name):
    task, given, other = shared_task(name), shared_batch(name, 0), shared_batch(name, 1)
    loss = float(task.loss(given)[0])
    # Running averages aside, the loss is a function of the batch.
    assert float(task.loss(given)[0]) == pytest.approx(loss, rel=1e-6)
    for view in task.views:
        assert abs(float(task.loss({**given, view: other[view]})[0]) - loss) > 1e-6, view


@slow_but("simclr")
def test_a_compiled_update_is_the_same(name, tmp_path):
    sgd = OptimizerConfig("sgd", lr=0.01)
    results = []
    for compiled in (False, True):
        task = make(name)
        given = batch(task)
        loop = trainer(task, Given([given]), tmp_path, optimizer=sgd)
        update = (
            tf.function(loop.update, jit_compile=True, autograph=False) if compiled else loop.update
        )
        results.append((float(update(given)["loss"]), values(task.state)))
    (plain, weights), (compiled_loss, compiled_weights) = results
    assert compiled_loss == pytest.approx(plain, rel=1e-4)
    for ours, theirs in zip(compiled_weights, weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@every_kind
def test_restoring_gives_the_same_next_step_bit_for_bit(name, steps, tmp_path):
    other = Training(name, tmp_path, seed=9)
    checkpoint.restore_state(steps(name).path, other.loop.state)
    np.testing.assert_equal(other.step(1), steps(name).second)


@every_kind
def test_the_seed_decides_everything(name, steps, tmp_path):
    again = Training(name, tmp_path)
    np.testing.assert_equal(again.values(), steps(name).start)
    np.testing.assert_equal(again.step(0), steps(name).first)
    pairs = zip(Training(name, tmp_path, seed=1).values(), again.values(), strict=True)
    assert any((one != other).any() for one, other in pairs)


@every_kind
def test_bfloat16_is_close_to_float32(name):
    exact, mixed = shared_task(name), make(name, dtype="mixed_bfloat16")
    for ours, theirs in zip(mixed.state, exact.state, strict=True):
        ours.assign(theirs)
    # Counters are int64: a GPU keeps variables of int32 where XLA does not find them.
    assert {v.dtype for v in mixed.state} <= {"float32", tf.float32, tf.int64}
    given = shared_batch(name, 0)
    loss, metrics = mixed.loss(given)
    assert loss.dtype == tf.float32
    assert all(m.dtype == tf.float32 for m in metrics.values())
    expected = float(exact.loss(given)[0])
    assert float(loss) == pytest.approx(expected, rel=0.05, abs=0.05)


# Pretexts


@every_pretext
def test_embed_gives_unit_rows_in_inference_mode(name):
    task = shared_task(name)
    images = tf.random.stateless_normal([BATCH, SIZE, SIZE, 3], [1, 2])
    before = values(task.state)
    rows = task.embed(images)
    assert rows.dtype == tf.float32
    assert rows.shape[0] == BATCH
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    # Each row is of its image alone: no batch statistics.
    np.testing.assert_allclose(task.embed(images[:1]), rows[:1], rtol=1e-4, atol=1e-5)
    assert task.projects == ("projector" in task.networks)
    sides = {"backbone": tf.math.l2_normalize(task.backbone.embed(images), axis=-1)}
    if task.projects:
        sides["projection"] = task.project(task.backbone.embed(images))
        lengths = tf.norm(sides["projection"], axis=-1)
        np.testing.assert_allclose(lengths, np.ones(len(images)), rtol=1e-5)
    if task.embedding in sides:
        np.testing.assert_allclose(rows, sides[task.embedding], rtol=1e-4, atol=1e-6)
    else:
        assert name in ("rotnet_stage", "decoupling_sampled")
    np.testing.assert_equal(values(task.state), before)
    assert np.ptp(rows, axis=0).max() > 1e-4


@pytest.mark.parametrize("name", PRETEXTS)
def test_its_section_loads_from_nothing(name):
    section = config.from_dict({"pretext": name}).pretext
    assert section == catalog.config_class("pretext", name)()
    assert section.name == name
    assert isinstance(section, PretextConfig)
    assert issubclass(catalog.method_class("pretext", name), Pretext)


def test_a_new_file_is_found(monkeypatch, tmp_path):
    (tmp_path / "shuffle.py").write_text(
        "import dataclasses\n"
        "from scan_tf.config import PretextConfig\n"
        "from scan_tf.methods.pretext.rotnet import Method\n"
        "from scan_tf.settings.schema import setting\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Config(PretextConfig):\n"
        "    name: str = 'shuffle'\n"
        "    tiles: int = setting(9, low=2)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(pretext, "__path__", [*pretext.__path__, str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "scan_tf.methods.pretext.shuffle", raising=False)
    assert catalog.available() == sorted([*PRETEXTS, "shuffle"])
    tree = {"pretext": {"name": "shuffle", "tiles": 4}}
    section = config.from_dict(tree).pretext
    assert (type(section).__name__, section.tiles) == ("Config", 4)
    assert catalog.method_class("pretext", "shuffle") is catalog.method_class("pretext", "rotnet")


def test_an_unknown_pretext_names_the_nearest():
    expected = "^pretext.name: unknown 'simclar'. Did you mean 'simclr'\\? Available: "
    for find in (catalog.config_class, catalog.method_class):
        with pytest.raises(ConfigError, match=expected):
            find("pretext", "simclar")
