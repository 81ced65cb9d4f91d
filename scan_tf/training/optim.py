"""SGD and Adam with coupled L2, and learning-rate schedules.

Keras' own optimisers differ from the official code in ways that change the numbers: its
`weight_decay` is decoupled, its momentum folds the learning rate into the velocity (so that a
schedule acts late), and its Adam places epsilon elsewhere. These two follow torch.optim exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from scan_tf import replicas
from scan_tf.config import OptimizerConfig


class Schedule:
    """Learning rate as a function of the step.

    Args:
        config: optimiser section.
        epochs: length of the training.
        steps_per_epoch: steps in one epoch.
    """

    def __init__(self, config: OptimizerConfig, *, epochs: int, steps_per_epoch: int):
        self.config = config
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """float32 scalar for an int64 step counted from 0.

        Cosine: end + (lr - end) * (1 + cos(pi * t / epochs)) / 2 with t in epochs, whole ones
        where `schedule_per` is `epoch` (official SCAN configuration). After a constant part both
        are counted from its end.
        """
        config = self.config
        epoch = tf.cast(step, tf.float32) / self.steps_per_epoch
        rate = tf.constant(config.lr, tf.float32)
        if config.schedule != "constant":
            whole = tf.cast(step // self.steps_per_epoch, tf.float32)
            elapsed = whole if config.schedule_per == "epoch" else epoch
            epochs: float = self.epochs
            if config.schedule == "constant_cosine":
                held = config.constant_share * epochs
                elapsed, epochs = tf.maximum(0.0, elapsed - held), epochs - held
            last = config.lr * config.final_fraction
            wave = tf.cos(math.pi * elapsed / epochs)
            rate = last + (config.lr - last) * (1 + wave) / 2
        if config.warmup_epochs:
            per_step = 1 / self.steps_per_epoch
            rate *= tf.minimum(1.0, (epoch + per_step) / config.warmup_epochs)
        return rate


class Optimizer:
    """Updates a fixed list of variables.

    Args:
        config: optimiser section.
        variables: float32 variables to train, of Keras or of TensorFlow.
        constant: those of them that always learn at the rate of the config.

    Attributes:
        slots: moving averages by their kind, each in the order of `variables`.
        state: the count of updates and all slots, in a fixed order.
    """

    def __init__(
        self, config: OptimizerConfig, variables: Sequence[Any], constant: Sequence[Any] = ()
    ):
        self.config = config
        held = {id(v) for v in constant}
        self._constant = [id(v) in held for v in variables]
        self.variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        kinds = ("first", "second") if config.name == "adam" else ("velocity",)
        self.slots = {
            kind: [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.variables]
            for kind in kinds
        }
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.state: list[Any] = [self.updates, *(v for slot in self.slots.values() for v in slot)]

    def gradients(
        self, loss: Callable[[], tuple[tf.Tensor, dict[str, tf.Tensor]]]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], list[tf.Tensor]]:
        """What `loss` returns, and the gradient of every variable, the same on all replicas."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.variables)
            value, metrics = loss()
        found = tape.gradient(value, self.variables, unconnected_gradients="zero")
        return value, metrics, replicas.mean(found)

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        """One step. Gradients are clipped first, then L2 is added, as in torch."""
        if self.config.clip_norm:
            gradients, _ = tf.clip_by_global_norm(list(gradients), self.config.clip_norm)
        self.updates.assign_add(1)
        step = self._adam if self.config.name == "adam" else self._sgd
        for i, (variable, gradient) in enumerate(zip(self.variables, gradients, strict=True)):
            own_rate = self.config.lr if self._constant[i] else rate
            step(i, variable, gradient + self.config.l2 * variable, own_rate)

    def _sgd(self, i: int, variable: Any, gradient: tf.Tensor, rate: Any) -> None:
        momentum = self.config.momentum
        velocity = self.slots["velocity"][i]
        velocity = velocity.assign(momentum * velocity + gradient)
        if self.config.nesterov:
            velocity = gradient + momentum * velocity
        variable.assign_sub(rate * velocity)

    def _adam(self, i: int, variable: Any, gradient: tf.Tensor, rate: Any) -> None:
        """Kingma and Ba, ICLR 2015, with betas (0.9, 0.999) and epsilon 1e-8 (torch defaults)."""
        first, second = self.slots["first"][i], self.slots["second"][i]
        first = first.assign(0.9 * first + 0.1 * gradient)
        second = second.assign(0.999 * second + 0.001 * gradient**2)
        scale = tf.sqrt(second / self._correction(0.999)) + 1e-8
        variable.assign_sub(rate / self._correction(0.9) * first / scale)

    def _correction(self, decay: float) -> tf.Tensor:
        """1 - decay**updates, without the cancellation that float32 suffers at the start."""
        return -tf.math.expm1(tf.cast(self.updates, tf.float32) * math.log(decay))
