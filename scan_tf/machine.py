"""This machine: what it computes fastest with (the meaning of `auto`), and what it is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scan_tf import replicas as on_replicas
from scan_tf.config import RuntimeConfig
from scan_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Device:
    """Resolved settings; written to the run directory.

    Attributes:
        kind: "cpu" or "gpu".
        dtype: the Keras dtype policy, "float32" or "mixed_bfloat16".
        jit_step: compile the whole training step with XLA.
        jit_augment: compile the augmentation alone with XLA.
        jit_heads: compile with XLA a step of heads over cached features, which convolves nothing.
        replicas: devices among which a batch is divided where a backbone is trained.
    """

    kind: str
    dtype: str
    jit_step: bool
    jit_augment: bool
    jit_heads: bool = False
    replicas: int = 1


def resolve(config: RuntimeConfig) -> Device:
    """Replace `auto` by what measured fastest on this kind of machine.

    On CPUs oneDNN's bfloat16 kernels pay where the processor has AMX or AVX512-BF16, and XLA
    slows a convolutional step down but triples the speed of the augmentation, and of training
    heads alone. On GPUs all pay.

    Raises:
        ConfigError: there are not so many devices as `runtime.replicas` says.
    """
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    gpu, replicas = bool(gpus), _replicas(config, gpus)
    if config.strategy == "mirrored" and replicas > 1 and not gpu:
        _divide_cpu(replicas)
    dtype = config.dtype
    if dtype == "auto":
        dtype = "mixed_bfloat16" if gpu or cpu_has_bfloat16() else "float32"
    jit = {"always": True, "never": False, "auto": gpu}[config.jit_compile]
    rest = config.jit_compile != "never"
    return Device(
        "gpu" if gpu else "cpu", dtype, jit, jit_augment=rest, jit_heads=rest, replicas=replicas
    )


def _replicas(config: RuntimeConfig, gpus: int) -> int:
    """Among how many devices batches are divided. Raises ConfigError for more than there are."""
    asked = config.replicas
    # XLA makes a step on one GPU three times as fast (docs/performance.md), and cannot compile one
    # on replicas; nobody has measured yet from how many GPUs on they pay.
    if config.strategy in ("none", "auto"):
        if asked not in (None, 1):
            raise ConfigError(
                f"runtime.replicas: {asked}, but runtime.strategy is '{config.strategy}', which is "
                "one device. Set runtime.strategy=mirrored."
            )
        return 1
    if config.strategy == "multi_worker" and asked is not None:
        raise ConfigError(
            f"runtime.replicas: {asked}, but multi_worker takes every GPU that a process sees, or "
            "its CPU. Set it to null; CUDA_VISIBLE_DEVICES says which a process sees."
        )
    if config.strategy == "multi_worker":
        helps()  # refuses a TF_CONFIG that cannot be read
        asked = gpus = on_replicas.processes().count
    if asked is None and not gpus:
        raise ConfigError(
            "runtime.replicas: no GPU is visible, and logical devices of the CPU have to be "
            "counted. Set it to a number such as 2, or runtime.strategy=none."
        )
    count = asked or gpus
    if gpus and count > gpus:
        raise ConfigError(f"runtime.replicas: {count}, but {gpus} GPUs are visible.")
    if count > 1 and config.jit_compile == "always":
        raise ConfigError(
            "runtime.jit_compile: 'always' compiles the whole step, which replicas cannot. Set it "
            "to auto, or runtime.strategy=none."
        )
    return count


def helps() -> bool:
    """Whether this process, by TF_CONFIG, is not the first. Raises ConfigError where it is bad."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        found = json.loads(text)
        workers, task = found["cluster"]["worker"], found["task"]
        number = int(task["index"])
        if task["type"] != "worker" or len(workers) < 2 or not 0 <= number < len(workers):
            raise ValueError("no place among two or more workers")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"runtime.strategy: 'multi_worker' needs the environment variable TF_CONFIG ({error}). "
            'Expected {"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": '
            f'"worker", "index": 0}}}}, the index of each process its own; got {text!r}.'
        ) from error
    return number > 0


def _divide_cpu(count: int) -> None:
    """Make the CPU `count` logical devices. Raises ConfigError where that is too late."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError as error:
        raise ConfigError(
            f"runtime.replicas: TensorFlow has been used in this process before the CPU could be "
            f"divided into {count} devices. Run the program in a process of its own."
        ) from error


def in_words(device: Device) -> str:
    """What computes, and in which precision."""
    shared = f", {device.replicas} replicas" if device.replicas > 1 else ""
    if device.kind == "gpu":
        return f"{', '.join(hardware()['accelerators'])} in {device.dtype}{shared}"
    return f"{num_cpus()} CPU core{'s' if num_cpus() > 1 else ''} in {device.dtype}{shared}"


def num_cpus() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def threads(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; where the block ends early, what they have not begun is not begun."""
    pool = ThreadPoolExecutor(count or num_cpus())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, by AMX or AVX512-BF16."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def environment() -> dict[str, Any]:
    """Versions, commit and processor, for the record."""
    import importlib.metadata  # takes a while, and few commands come here

    packages = ("scan_tf", "tensorflow", "keras", "numpy", "scikit-learn", "annoy")
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "processor": _processor(),
        "threads": num_cpus(),
        "command": sys.argv,
    }


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # installed without its repository
    return done.stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_mib() -> int | None:
    """The most memory that this process has held, in MiB; None where the system does not tell."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))


def hardware() -> dict[str, Any]:
    """What this machine computes with, for the record."""
    import tensorflow as tf

    gpus = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "accelerators": [gpu.get("device_name", "GPU") for gpu in gpus],
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
    }
