"""What is imported when it is first used: names of a package (PEP 562), and TensorFlow itself.

The modules of methods take `tf` and `keras` from here, so that the settings of a method can be read
and checked without loading TensorFlow.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

__all__ = ["keras", "load_tensorflow", "names", "tf"]

# A program of its own, so that what TensorFlow says before it ends the process comes through.
_FILTER = r"""
import re, sys
said = re.compile(rb"All log messages before absl::InitializeLog|oneDNN custom operations are on"
    rb"|oneDNN supports DT_UINT8 only"
    rb"|Could not find cuda drivers|failed call to cuInit|Unable to register cu\w+ factory"
    rb"|computation_placer|optimized to use available CPU instructions|TF-TRT Warning"
    rb"|To enable the following instructions|kernel driver does not appear to be running"
    rb"|cuda_diagnostics|retrieving CUDA diagnostic|: hostname: |libcuda reported version"
    rb"|kernel reported version|Your kernel may have been built without NUMA support"
    rb"|TensorFloat-32 will be used|Created device /job:|Loaded cuDNN version"
    rb"|XLA service 0x|StreamExecutor device")
for line in sys.stdin.buffer:
    if not said.search(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


class _Module:
    """Stands for a module until one of its attributes is used."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import keras
    import tensorflow as tf
else:
    keras, tf = _Module("keras"), _Module("tensorflow")


def load_tensorflow(before: Callable[[], object] | None = None) -> None:
    """Import TensorFlow and let it look for devices, without its lines about oneDNN and CUDA.

    They come before its log level is read. All else that is written to stderr meanwhile, by
    TensorFlow or by its C++ code, comes through. Nothing is done where it is loaded already.

    Args:
        before: called before the first operation, after which devices cannot be configured.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _filtered_stderr():
        importlib.import_module("keras")
        if before is not None:
            before()
        # The first operation finds the devices; this one has oneDNN say what it cannot do.
        tf.transpose(tf.zeros([1, 1, 1, 1], tf.uint8), [0, 2, 1, 3])


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Send what goes to file descriptor 2 through `_FILTER`."""
    if not sys.executable:  # inside of another program
        yield
        return
    sys.stderr.flush()
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    # In a session of its own, where Ctrl-C does not end it.
    how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, **how, start_new_session=True) as program:
        assert program.stdin is not None  # noqa: S101 - it is a pipe
        stderr = os.dup(2)
        os.dup2(program.stdin.fileno(), 2)
        program.stdin.close()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def names(
    package: str, where: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for the `__init__.py` of a package.

    Args:
        package: its `__name__`.
        where: public name -> the module inside the package that defines it, such as
            "image_set"; with ":" and the name there, where that is another.
    """

    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, attribute = where[name].partition(":")
        value = getattr(importlib.import_module(f"{package}.{module}"), attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *where}), sorted(where)
