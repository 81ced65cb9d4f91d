"""What every task must do, run over all of them; a new pretext's file is found by itself."""

from __future__ import annotations

import dataclasses
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
from scan_tf.files import read_metrics
from scan_tf.methods import catalog, pretext
from scan_tf.methods.task import Pretext, Task
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


def make(name: str, seed: int = 0, dtype: str = "float32", **options: Any) -> Task:
    keras.utils.set_random_seed(seed)
    return small_tasks.make(name, dtype, **options)


def losses(loop, source, steps) -> list[float]:
    """The losses of some steps of real batches, without compiling."""
    return [float(loop.update(inputs)["loss"]) for inputs in source.inputs(*steps)]


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


# What differs from one of these in an option, or takes a deep network, is slow.
@slow_but(*(n for n in NAMES if n not in ("moco_symmetric", "decoupling_sampled", "byol_views")))
def test_it_learns_one_batch_by_heart_and_trains_what_it_says(name, tmp_path):
    # Against many negatives a single block learns too slowly.
    deep = name in ("moco", "moco_symmetric", "decoupling_sampled")
    task = make(name, blocks=small_tasks.RESNET10 if deep else small_tasks.BLOCKS)
    trained = {id(v) for v in task.trainable_variables}
    heads_only = name in ("scan_frozen", "scan_cached", "temi")
    frozen = {id(v) for v in task.backbone.variables} if heads_only else set()
    before = {id(v): np.asarray(v).copy() for v in task.state}
    # Without L2, all that moves a weight is its gradient.
    optimizer = dataclasses.replace(FAST, l2=0.0, lr=FAST.lr if deep else 0.01)
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
    changed = {id(v) for v in task.state if (np.asarray(v) != before[id(v)]).any()}
    assert trained <= changed
    assert not changed & frozen


@every_task
def test_the_state_is_every_variable_once(name):
    task = make(name)
    ours = [id(v) for v in task.state]
    assert len(ours) == len(set(ours))
    networks = [v for n in task.networks.values() for v in n.variables]
    assert {id(v) for v in [*networks, *task.trainable_variables]} <= set(ours)
    assert task.networks["backbone"] is task.backbone


@every_task
def test_the_names_of_the_state_are_the_same_in_every_run(name, tmp_path):
    first, second = (trainer(t, loader(t), tmp_path).state for t in (make(name), make(name)))
    assert list(first) == list(second)
    assert [v.shape for v in first.values()] == [v.shape for v in second.values()]
    assert len({id(v) for v in first.values()}) == len(first)


@every_task
def test_batches_hold_the_declared_views_and_no_label(name):
    task = make(name)
    assert set(batch(task)) == {*task.views, "index"}


@every_task
def test_the_loss_uses_every_declared_view(name):
    task = make(name)
    given, other = batch(task), batch(task, step=1)
    loss = float(task.loss(given)[0])
    # Running averages aside, the loss is a function of the batch.
    assert float(task.loss(given)[0]) == pytest.approx(loss, rel=1e-6)
    for view in task.views:
        assert abs(float(task.loss({**given, view: other[view]})[0]) - loss) > 1e-6, view


# One view, two views, heads on features, and the whole network with heads.
@slow_but("rotnet", "simclr", "temi", "cdc")
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


@slow_but(*(n for n in NAMES if n not in small_tasks.VARIANTS))
def test_restoring_gives_the_same_next_step_bit_for_bit(name, tmp_path):
    task = make(name)
    source = loader(task)
    loop = trainer(task, source, tmp_path)
    losses(loop, source, (0, 1))
    checkpoint.save_state(tmp_path / "state.npz", loop.state, step=1, extra={})
    expected = losses(loop, source, (1, 2)), values(loop.state.values())
    other = make(name, seed=9)
    source = loader(other)
    loop = trainer(other, source, tmp_path)
    checkpoint.restore_state(tmp_path / "state.npz", loop.state)
    np.testing.assert_equal((losses(loop, source, (1, 2)), values(loop.state.values())), expected)


@slow_but(*(n for n in NAMES if n not in small_tasks.VARIANTS))
def test_the_seed_decides_everything(name, tmp_path):
    def train(seed):
        task = make(name, seed)
        source = loader(task, seed=seed)
        loop = trainer(task, source, tmp_path)
        return losses(loop, source, (0, 1)), values(loop.state.values())

    first = train(1)
    np.testing.assert_equal(train(1), first)
    assert train(2)[0] != first[0]


@every_task
def test_bfloat16_is_close_to_float32(name):
    exact, mixed = make(name), make(name, dtype="mixed_bfloat16")
    for ours, theirs in zip(mixed.state, exact.state, strict=True):
        ours.assign(theirs)
    # Counters are int64: a GPU keeps variables of int32 where XLA does not find them.
    assert {v.dtype for v in mixed.state} <= {"float32", tf.float32, tf.int64}
    given = batch(exact)
    loss, metrics = mixed.loss(given)
    assert loss.dtype == tf.float32
    assert all(m.dtype == tf.float32 for m in metrics.values())
    expected = float(exact.loss(given)[0])
    assert float(loss) == pytest.approx(expected, rel=0.05, abs=0.05)


# Pretexts


@every_pretext
def test_embed_gives_unit_rows_in_inference_mode(name):
    task = make(name)
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
