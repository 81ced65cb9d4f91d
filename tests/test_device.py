"""What `auto` becomes on a CPU with and without bfloat16, and on a GPU."""

from __future__ import annotations

import os
import pathlib

import pytest
import tensorflow as tf

from scan_tf.config import RuntimeConfig
from scan_tf.machine import cpu_has_bfloat16, num_cpus, resolve


def machine(monkeypatch, *, gpu=False, flags=""):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["pretended"] * gpu)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda *_, **__: f"flags : fpu {flags} sse\n")


@pytest.mark.parametrize("flags", ["amx_bf16", "avx512_bf16"])
def test_a_cpu_with_bfloat16(monkeypatch, flags):
    machine(monkeypatch, flags=flags)
    found = resolve(RuntimeConfig())
    assert (found.kind, found.dtype) == ("cpu", "mixed_bfloat16")
    assert (found.jit_step, found.jit_augment, found.jit_heads) == (False, True, True)


def test_a_cpu_without(monkeypatch):
    machine(monkeypatch, flags="avx512f")
    assert resolve(RuntimeConfig()).dtype == "float32"
    assert not cpu_has_bfloat16()


def test_a_machine_that_does_not_tell(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    assert not cpu_has_bfloat16()


def test_a_gpu(monkeypatch):
    machine(monkeypatch, gpu=True)
    found = resolve(RuntimeConfig())
    assert (found.kind, found.dtype) == ("gpu", "mixed_bfloat16")
    assert (found.jit_step, found.jit_augment, found.jit_heads) == (True, True, True)


@pytest.mark.parametrize(("setting", "compiled"), [("always", True), ("never", False)])
def test_settings_win_over_what_is_measured(monkeypatch, setting, compiled):
    machine(monkeypatch, gpu=not compiled, flags="amx_bf16")
    found = resolve(RuntimeConfig(dtype="float32", jit_compile=setting))
    assert found.dtype == "float32"
    assert (found.jit_step, found.jit_augment, found.jit_heads) == (compiled,) * 3


def test_cores_are_those_this_process_may_use(monkeypatch):
    assert 1 <= num_cpus() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert num_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_cpus() == os.cpu_count()
