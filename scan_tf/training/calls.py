"""Calls of a compiled update, each of one step, or of many where a step is very short."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from scan_tf.training.loader import Inputs

Update = Callable[[Inputs], dict[str, tf.Tensor]]
# The steps made so far, and the metrics of a call: scalars, or arrays over its steps.
Call = tuple[int, dict[str, Any]]


class Calls:
    """Makes steps by calls of a compiled update.

    A step of heads over cached features takes less time than calling it does; so many are then
    made in one compiled call. Every number of them runs the same compiled loop, so that the
    division into calls changes no bit.

    Args:
        update: one step; graph code.
        most: steps of a call at most; 1: the update itself is called.
        ends: a call never goes past a multiple of these.
        jit: compile with XLA.
    """

    def __init__(self, update: Update, *, most: int, ends: Sequence[int], jit: bool):
        self.most, self.ends, self.jit = min(most, *ends), ends, jit
        self.one = tf.function(update, jit_compile=jit, autograph=False)
        self.many = tf.function(self._many, jit_compile=jit, autograph=False)

    def __call__(self, inputs: Iterator[Inputs], start: int, stop: int) -> Iterator[Call]:
        """Make the steps `start` to `stop - 1`, with their inputs in this order."""
        step = start
        while step < stop:
            count = min(self.most, stop - step, *(end - step % end for end in self.ends))
            rows = list(itertools.islice(inputs, count))
            metrics = self.one(rows[0]) if self.most == 1 else self._call(rows)
            step += count
            yield step, metrics

    def _call(self, rows: list[Inputs]) -> dict[str, Any]:
        # Filled up, so that one shape is compiled.
        filled = rows + rows[-1:] * (self.most - len(rows))
        stacked = {name: np.stack([row[name] for row in filled]) for name in rows[0]}
        metrics = self.many(stacked, tf.constant(len(rows)))
        return {name: values[: len(rows)] for name, values in metrics.items()}

    def _many(self, inputs: Inputs, count: tf.Tensor) -> dict[str, tf.Tensor]:
        """The first `count` of the updates with stacked inputs; metrics f32 [S]. Graph code."""
        one = {name: tf.TensorSpec(rows.shape[1:], rows.dtype) for name, rows in inputs.items()}
        names = self.one.get_concrete_function(one).structured_outputs
        empty = {name: tf.zeros([self.most]) for name in names}

        def body(i: tf.Tensor, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, Any]:
            metrics = self.one({name: rows[i] for name, rows in inputs.items()})
            put = tf.tensor_scatter_nd_update
            return i + 1, {name: put(found[name], [[i]], [metrics[name]]) for name in found}

        return tf.while_loop(lambda i, _: i < count, body, [0, empty], parallel_iterations=1)[1]


def scalars(metrics: dict[str, Any]) -> list[dict[str, float]]:
    """The metrics of each step of a call, as numbers."""
    columns = [np.atleast_1d(values).tolist() for values in metrics.values()]
    return [dict(zip(metrics, row, strict=True)) for row in zip(*columns, strict=True)]
