"""TensorBoard's profile of a few calls of a training stage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

# Compiling and the first allocations are over by then.
_FIRST, _LAST = 4, 11

Call = tuple[int, dict[str, tf.Tensor]]


def profiled(calls: Iterator[Call], directory: Path) -> Iterator[Call]:
    """Pass on the calls; write a profile of the fourth to the eleventh to `directory`.

    A profile holds the time of every operation on the host and on the device, under XLA of every
    fused kernel. A stage that ends before the eleventh call leaves a shorter profile, or none.

    Args:
        calls: makes one call of the compiled update each time it is advanced: the steps made so
            far, and the metrics of the call.
        directory: of the profile, for `tensorboard --logdir` or `xprof --logdir`.
    """
    running = False
    try:
        for number, call in enumerate(_marked(calls), start=1):
            if running and number == _LAST:
                _wait(call)
                tf.profiler.experimental.stop()
                running = False
                tqdm.write(f"  profile of {_LAST - _FIRST + 1} calls: {directory}")
            yield call
            if number == _FIRST - 1:
                _wait(call)
                tf.profiler.experimental.start(str(directory))
                running = True
    finally:
        if running:
            tf.profiler.experimental.stop()


def _marked(calls: Iterator[Call]) -> Iterator[Call]:
    """The same calls, each a step of its own in the profile."""
    for number in itertools.count(1):
        with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
            call = next(calls, None)
        if call is None:
            return
        yield call


def _wait(call: Call) -> None:
    """Until the device has done what it was asked to."""
    for value in call[1].values():
        value.numpy()
