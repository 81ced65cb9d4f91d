"""The optimisers against plain NumPy in float64, written from the formulas of torch.optim."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from scan_tf.config import OptimizerConfig
from scan_tf.training.optim import Optimizer, Schedule

# The learning rates of the official configuration's 500 epochs: 0.4, cosine, decay 0.1.
COSINE = np.load(pathlib.Path(__file__).parent / "data" / "cosine_lr.npy")
SHAPES = [(3, 2), (4,)]
RATES = [0.1, 0.03, 0.2, 0.2]


def naive_sgd(weights, gradients, rates, *, momentum, nesterov, l2):
    velocity = [np.zeros_like(w) for w in weights]
    for rate, step in zip(rates, gradients, strict=True):
        for i, gradient in enumerate(step):
            g = gradient + l2 * weights[i]
            velocity[i] = momentum * velocity[i] + g
            direction = g + momentum * velocity[i] if nesterov else velocity[i]
            weights[i] = weights[i] - rate * direction
    return weights


def naive_adam(weights, gradients, rates, *, l2):
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for count, (rate, step) in enumerate(zip(rates, gradients, strict=True), 1):
        for i, gradient in enumerate(step):
            g = gradient + l2 * weights[i]
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            scale = np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8
            weights[i] = weights[i] - rate * first[i] / (1 - 0.9**count) / scale
    return weights


def draw(rng, count=4):
    weights = [rng.standard_normal(s) for s in SHAPES]
    return weights, [[rng.standard_normal(s) for s in SHAPES] for _ in range(count)]


def train(config, weights, gradients, rates=RATES, kind=tf.Variable):
    variables = [kind(w.astype(np.float32)) for w in weights]
    optimizer = Optimizer(config, variables)
    step = tf.function(optimizer.apply)
    for rate, given in zip(rates, gradients, strict=True):
        step([tf.constant(g, tf.float32) for g in given], tf.constant(rate, tf.float32))
    return [np.asarray(v) for v in variables], optimizer


def check(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_sgd(rng, momentum, nesterov, l2):
    settings = {"momentum": momentum, "nesterov": nesterov, "l2": l2}
    weights, gradients = draw(rng)
    ours, _ = train(OptimizerConfig("sgd", **settings), weights, gradients)
    check(ours, naive_sgd(weights, gradients, RATES, **settings))


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_adam(rng, l2):
    weights, gradients = draw(rng)
    ours, _ = train(OptimizerConfig("adam", l2=l2), weights, gradients)
    check(ours, naive_adam(weights, gradients, RATES, l2=l2))


def test_the_first_step_of_adam_is_the_rate_whatever_the_gradient():
    gradient = [np.array([1e-3, -0.2, 30.0, 1e4])]
    config = OptimizerConfig("adam", l2=0)
    (moved,), _ = train(config, [np.zeros(4)], [gradient], [0.01])
    np.testing.assert_allclose(moved, [-0.01, 0.01, -0.01, -0.01], rtol=2e-5)


@pytest.mark.parametrize("norm", [0.5, 1e3])
def test_the_gradient_is_clipped_before_l2_is_added(rng, norm):
    weights, gradients = draw(rng)
    settings = {"momentum": 0.9, "nesterov": False, "l2": 0.1}
    ours, _ = train(OptimizerConfig("sgd", clip_norm=norm, **settings), weights, gradients)
    lengths = [np.sqrt(sum((g**2).sum() for g in step)) for step in gradients]
    clipped = [
        [g * min(1, norm / length) for g in step]
        for step, length in zip(gradients, lengths, strict=True)
    ]
    check(ours, naive_sgd(weights, clipped, RATES, **settings))
    assert (max(lengths) > norm) == (norm == 0.5)


def test_variables_of_keras_and_of_tensorflow_are_trained_alike(rng):
    weights, gradients = draw(rng)
    config = OptimizerConfig("adam")
    ours, _ = train(config, weights, gradients)
    theirs, _ = train(config, weights, gradients, kind=keras.Variable)
    np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_state_is_all_there_is(rng, name):
    """Copying weights and state into a new optimiser goes on bit for bit."""
    weights, gradients = draw(rng, 6)
    config = OptimizerConfig(name)
    expected, _ = train(config, weights, gradients, [0.1] * 6)
    half, old = train(config, weights, gradients[:3], [0.1] * 3)
    variables = [tf.Variable(w) for w in half]
    new = Optimizer(config, variables)
    for ours, theirs in zip(new.state, old.state, strict=True):
        ours.assign(theirs)
    for given in gradients[3:]:
        new.apply([tf.constant(g, tf.float32) for g in given], tf.constant(0.1))
    for ours, theirs in zip(variables, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6)


# Schedules


def rates(config, epochs, steps_per_epoch):
    schedule = Schedule(config, epochs=epochs, steps_per_epoch=steps_per_epoch)
    steps = tf.range(epochs * steps_per_epoch, dtype=tf.int64)
    return tf.vectorized_map(schedule, steps).numpy()


def test_cosine_by_epoch_is_the_official_one():
    config = OptimizerConfig("sgd", lr=0.4, schedule="cosine", final_fraction=0.1**3)
    ours = rates(config, 500, 3).reshape(500, 3)
    np.testing.assert_allclose(ours, np.repeat(COSINE[:, None], 3, 1), rtol=1e-4)
    np.testing.assert_allclose(ours[[0, 1, 250]], COSINE[[0, 1, 250], None].repeat(3, 1), rtol=1e-6)


def test_cosine_by_step():
    config = OptimizerConfig(lr=2.0, schedule="cosine", schedule_per="step", final_fraction=0.25)
    expected = 0.5 + 1.5 * (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
    np.testing.assert_allclose(rates(config, 3, 4), expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_constant_and_then_a_cosine_over_the_rest(share):
    config = OptimizerConfig(
        lr=2.0, schedule="constant_cosine", constant_share=share, final_fraction=0.25
    )
    for per, count in (("step", 4), ("epoch", 1)):
        found = rates(dataclasses.replace(config, schedule_per=per), 8, 4)[:: 4 // count]
        held = int(share * 8 * count)
        rest = np.arange(8 * count - held) / (8 * count - held)
        cosine = 0.5 + 1.5 * (1 + np.cos(np.pi * rest)) / 2
        np.testing.assert_allclose(found, [*[2.0] * held, *cosine], rtol=1e-6)


def test_constant():
    np.testing.assert_array_equal(rates(OptimizerConfig(lr=0.3), 2, 3), np.full(6, np.float32(0.3)))


def test_warm_up_rises_to_the_rate_in_equal_steps_and_then_leaves_it():
    config = OptimizerConfig(lr=1.0, warmup_epochs=1.5)
    expected = [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(rates(config, 3, 4), expected, rtol=1e-6)
    cosine = dataclasses.replace(config, schedule="cosine")
    without = rates(dataclasses.replace(cosine, warmup_epochs=0.0), 3, 4)
    np.testing.assert_allclose(rates(cosine, 3, 4), expected * without, rtol=1e-6)


@pytest.mark.parametrize("kind", [tf.Variable, keras.Variable])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_some_variables_may_keep_the_rate_of_the_config(rng, name, kind):
    config = OptimizerConfig(name, lr=0.05, l2=0.01)
    weights, gradients = draw(rng)
    scheduled, _ = train(config, weights, gradients)
    held, _ = train(config, weights, gradients, rates=[0.05] * len(RATES))
    variables = [kind(w.astype(np.float32)) for w in weights]
    optimizer = Optimizer(config, variables, variables[1:])
    for rate, given in zip(RATES, gradients, strict=True):
        optimizer.apply([tf.constant(g, tf.float32) for g in given], tf.constant(rate, tf.float32))
    check([np.asarray(v) for v in variables], [scheduled[0], held[1]])
    assert not np.allclose(scheduled[1], held[1])
