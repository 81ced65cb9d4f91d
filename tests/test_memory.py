from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from scan_tf.methods import pretext_losses
from scan_tf.methods.memory import MemoryBank

pytestmark = pytest.mark.usefixtures("seeded")
COUNT, DIM = 40, 8
INDEX = tf.constant([3, 39, 0, 17])


def bank(negatives=None, momentum=0.5, count=COUNT, dim=DIM):
    return MemoryBank(count, dim, temperature=0.2, momentum=momentum, negatives=negatives)


def unit(rng, rows=4):
    array = rng.standard_normal((rows, DIM))
    return tf.constant(array / np.linalg.norm(array, axis=1, keepdims=True), tf.float32)


def test_it_starts_at_random_with_rows_of_about_length_1():
    rows = np.asarray(bank(count=3000, dim=128).rows)
    bound = 1 / np.sqrt(128 / 3)
    assert 0.999 * bound < np.abs(rows).max() <= bound
    assert abs(np.linalg.norm(rows, axis=1).mean() - 1) < 0.01
    assert abs(rows.mean()) < 1e-3


def test_the_rows_of_a_step_are_compared_first_and_remembered_then(rng):
    memory, rows = bank(momentum=0.7), unit(rng)
    before = np.asarray(memory.rows).copy()
    loss, metrics, seen = memory.loss(rows, INDEX)
    np.testing.assert_array_equal(memory.rows, before)
    expected = pretext_losses.instance_softmax(rows, before, INDEX, 0.2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    own = np.take(before, INDEX, 0)
    similarity = np.mean(np.sum(rows * own, -1))
    np.testing.assert_allclose(metrics["positive_similarity"], similarity, rtol=1e-5)
    memory.after_update(INDEX, seen)
    moved = 0.7 * own + 0.3 * rows.numpy()
    before[INDEX.numpy()] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(memory.rows, before, rtol=1e-5, atol=1e-6)


def test_the_update_of_a_row_that_was_computed_elsewhere():
    """The row norm(cos(.2 + j)) meets norm(sin(1 + j)), by half."""
    memory = bank(count=2, dim=3)
    row, seen = np.cos(0.2 + np.arange(3)), np.sin(1 + np.arange(3))
    row, seen = (x / np.linalg.norm(x) for x in (row, seen))
    memory.rows.assign([row, row])
    found = memory.loss(tf.constant(seen[None], tf.float32), tf.constant([0]))
    memory.after_update(tf.constant([0]), found[2])
    np.testing.assert_allclose(memory.rows[0], [0.805340, 0.556686, -0.203783], atol=1e-6)
    np.testing.assert_allclose(memory.rows[1], row, rtol=1e-6)


def test_z_is_estimated_once(rng):
    memory = bank(negatives=25)
    assert memory.normalizer == 0
    _, first, seen = memory.loss(unit(rng), INDEX)
    memory.after_update(INDEX, seen)
    assert memory.normalizer == first["normalizer"] > 0
    _, second, seen = memory.loss(unit(rng), INDEX)
    memory.after_update(INDEX, seen)
    assert memory.normalizer == second["normalizer"] == first["normalizer"]


@pytest.mark.parametrize(
    ("temperature", "softmax", "sampled", "share"),
    [(0.07, 11.59, 10.09, 2.21), (0.1, 11.15, 9.65, 1.47)],
)
def test_the_loss_starts_where_50_000_random_rows_put_it(rng, temperature, softmax, sampled, share):
    rows = rng.standard_normal((64, 128))
    rows = tf.constant(rows / np.linalg.norm(rows, axis=1, keepdims=True), tf.float32)
    for negatives, expected in ((None, softmax), (4096, sampled)):
        memory = MemoryBank(50_000, 128, temperature=temperature, momentum=0.5, negatives=negatives)
        loss, metrics, _ = memory.loss(rows, tf.range(64))
        # A bank's own row is as good as any other: that term alone has an error of a sample.
        assert float(loss) == pytest.approx(expected, abs=4 * 0.088 / temperature / 8)
    assert float(metrics["normalizer"]) / 50_000 == pytest.approx(share, rel=0.05)


def test_negatives_are_drawn_uniformly_anew_in_every_step(rng, monkeypatch):
    drawn = []

    def record(rows, remembered, *_):
        drawn.append(np.asarray(remembered)[:, :, 0])
        return tf.constant(0.0)

    monkeypatch.setattr("scan_tf.methods.memory.instance_nce", record)
    memory, rows = bank(negatives=3000), unit(rng)
    known = np.asarray(memory.rows)[:, 0].copy()
    for _ in range(3):
        *_, seen = memory.loss(rows, INDEX)
    for step in drawn:
        np.testing.assert_array_equal(step[:, 0], np.take(known, INDEX))
        np.testing.assert_array_equal(step, drawn[0])  # the loss alone moves nothing
    memory.after_update(INDEX, seen)
    memory.rows[:, 0].assign(known)
    memory.loss(rows, INDEX)
    assert (drawn[-1][:, 1:] != drawn[0][:, 1:]).mean() > 0.9
    shares = [(drawn[0][:, 1:] == value).mean() for value in known]
    assert np.abs(np.array(shares) - 1 / COUNT).max() < 5 * np.sqrt(1 / COUNT / 12_000)
    assert (drawn[0][0] != drawn[0][1]).mean() > 0.9


def test_another_seed_draws_others():
    first, second = bank(negatives=5), bank(negatives=5)
    assert first.draws[0] != second.draws[0]
    assert first.draws[1] == second.draws[1] == 0
    assert [v.name for v in bank().variables] == ["bank:0"]
