"""What this machine computes fastest with: the meaning of `auto` in the runtime section."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from scan_tf.config import RuntimeConfig


@dataclasses.dataclass(frozen=True)
class Device:
    """Resolved settings; written to the run directory.

    Attributes:
        kind: "cpu" or "gpu".
        dtype: the Keras dtype policy, "float32" or "mixed_bfloat16".
        jit_step: compile the whole training step with XLA.
        jit_augment: compile the augmentation alone with XLA.
    """

    kind: str
    dtype: str
    jit_step: bool
    jit_augment: bool


def resolve(config: RuntimeConfig) -> Device:
    """Replace `auto` by what measured fastest on this kind of machine.

    On CPUs oneDNN's bfloat16 kernels pay where the processor has AMX or AVX512-BF16, and XLA
    slows a convolutional step down but triples the speed of the augmentation. On GPUs both pay.
    """
    import tensorflow as tf

    gpu = bool(tf.config.list_physical_devices("GPU"))
    dtype = config.dtype
    if dtype == "auto":
        dtype = "mixed_bfloat16" if gpu or _cpu_has_bfloat16() else "float32"
    jit = {"always": True, "never": False, "auto": gpu}[config.jit_compile]
    jit_augment = config.jit_compile != "never"
    return Device("gpu" if gpu else "cpu", dtype, jit, jit_augment)


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
