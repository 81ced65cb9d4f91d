"""The whole training step as one XLA program, as accelerators run it: `runtime.jit_compile`.

Batches are gathered, augmented and normalised inside of it; what XLA cannot compile raises.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import small_tasks
from small_tasks import QUIET, loader, trainer, values

from scan_tf import machine
from scan_tf.storage.files import read_metrics


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "name", [n for n in small_tasks.NAMES if n not in ("scan_cached", "selflabel_cached")]
)
def test_the_whole_step_compiles_as_the_trainer_runs_it(name, dtype, tmp_path):
    runtime = dataclasses.replace(QUIET, dtype=dtype, jit_compile="always")
    resolved = machine.resolve(runtime)
    assert resolved.jit_step
    keras.utils.set_random_seed(0)
    task = small_tasks.make(name, dtype)
    source = loader(task, device=resolved, augmented=True)
    loop = trainer(task, source, tmp_path, device=resolved, runtime=runtime)
    before = values(task.trainable_variables)
    loop.run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) == source.steps_per_epoch
    assert np.isfinite([row["loss"] for row in rows]).all()
    after = values(task.trainable_variables)
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    # One program for all steps: nothing was traced again.
    function = loop.calls.one
    assert function.experimental_get_tracing_count() == 1
    inputs = next(iter(source.inputs(0, 1)))
    program = function.experimental_get_compiler_ir(inputs)(stage="hlo")
    assert program.startswith("HloModule")
