"""Moving averages of the weights of networks, which are evaluated in place of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from scan_tf.lazy import keras, tf


class Averages:
    """For every variable w of some networks an average a <- decay * a + (1 - decay) * w.

    Args:
        networks: name -> network, all built.
        decay: 0: no averages.
        warm_up: the decay of step t = 0, 1, ... is at most (1 + t) / (10 + t), so that short
            trainings are not averages of their beginning; the step is a variable of its own.

    Attributes:
        variables: of the averages, to be saved in checkpoints.
    """

    def __init__(self, networks: Mapping[str, keras.Model], decay: float, *, warm_up: bool = False):
        self.decay = decay
        weights = [v for n in networks.values() for v in n.variables] if decay else []
        self._weights: list[Any] = weights
        self._averages = [tf.Variable(v, trainable=False, name=f"ema/{v.path}") for v in weights]
        self._step = None
        if weights and warm_up:
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="ema/step")

    @property
    def variables(self) -> list[Any]:
        """All of them, in a fixed order."""
        return [*self._averages, *([] if self._step is None else [self._step])]

    def follow(self) -> None:
        """Move every average towards its weight. Graph code."""
        decay: Any = self.decay
        if self._step is not None:
            step = tf.cast(self._step.assign_add(1) - 1, tf.float32)
            decay = tf.minimum(decay, (1 + step) / (10 + step))
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.assign(weight + decay * (average - weight))

    def put(self) -> None:
        """Put the averages in place of the weights."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            weight.assign(average)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the averages are in place of the weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchange averages and weights; twice leaves all as it was."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            held = average.numpy()
            average.assign(weight)
            weight.assign(held)
