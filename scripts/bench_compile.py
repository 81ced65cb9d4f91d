"""The first step of a training stage, and those after it, by flags of XLA, batch and steps a call.

`ready_s` in the JSON file is the time until a case has made its first step: starting, tracing,
compiling, and on a GPU trying kernels out. Flags of GPUs change nothing on a CPU.

Example:
    python scripts/bench_compile.py --batch 512 --stages simclr scan selflabel --json compile.json
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from typing import Any

import bench
import bench_step

# Flags that are added to XLA_FLAGS, the factor of the batch, and steps a call.
VARIANTS: dict[str, tuple[str, int, int]] = {
    "as it is": ("", 1, 1),
    "kernels not tried out": ("--xla_gpu_autotune_level=0", 1, 1),
    "kernels tried out, results not compared": ("--xla_gpu_autotune_level=3", 1, 1),
    "no GEMM by Triton": ("--xla_gpu_enable_triton_gemm=false", 1, 1),
    "LLVM in threads": ("--xla_gpu_enable_llvm_module_compilation_parallelism=true", 1, 1),
    "no command buffers": ("--xla_gpu_enable_command_buffer=", 1, 1),
    "twice the batch": ("", 2, 1),
    "8 steps a call": ("", 1, 8),
}


def steps(
    stage: str, dtype: str, flags: str, batch: int, per_call: int, size: int, model: dict[str, Any]
) -> bench.Run:
    """One call of the compiled update of a stage, as the training loop makes it."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # all cases are there at a time
    import tensorflow as tf

    from scan_tf.training.calls import Calls

    count = max(bench_step.COUNT, batch)
    backbone, images, where = bench_step.setting(dtype, True, count, size, model)
    trainer, loader = bench_step.training(stage, backbone, images, batch, where)
    calls = Calls(trainer.update, most=per_call, ends=(per_call,), jit=True)
    made = calls(loader.inputs(0, 10**9), 0, 10**9)

    def run() -> dict[str, float]:
        _, metrics = next(made)
        # Reading one number waits until a GPU is done.
        return {"loss": float(tf.reshape(metrics["loss"], [-1])[-1])}

    return run


def cases(arguments: argparse.Namespace) -> list[bench.Case]:
    """Every variant of every stage."""
    model = {"backbone": arguments.backbone, "width": arguments.width, "stem": arguments.stem}
    made = []
    for stage, (name, (flags, times, per_call)) in itertools.product(
        arguments.stages, VARIANTS.items()
    ):
        batch = times * arguments.batch
        options = {"stage": stage, "flags": flags, "batch": batch, "per_call": per_call}
        options |= {"size": arguments.size, "model": model, "dtype": arguments.dtype}
        units = bench_step.VIEWS[stage] * batch * per_call
        made.append(bench.Case(stage, name, steps, options, units=units))
    return made


def main(argv: list[str] | None = None) -> int:
    """Print the tables; see --help."""
    parser = bench.parser(__doc__, repeats=3)
    stages = [stage for stage in bench_step.STAGES if stage != "inference"]
    parser.add_argument("--stages", nargs="+", default=["simclr"], choices=stages)
    bench_step.add_shape(parser)
    parser.add_argument("--dtype", default="mixed_bfloat16", help="float32 or mixed_bfloat16")
    arguments = parser.parse_args(argv)
    return 0 if bench.main(cases(arguments), arguments, "images") else 1


if __name__ == "__main__":
    sys.exit(main())
