"""Programs that begin with TensorFlow loaded, and that run their steps op by op.

Most of the time of a tiny run goes into loading TensorFlow and compiling the steps. Many kills are
done sooner with neither: a copy of this process, which has loaded it, becomes the program.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_SEEN_S = 0.005


class Forked:
    """A program at work in a copy of this process, with what `subprocess.Popen` has."""

    def __init__(self, log: Path, arguments: Sequence[str]):
        _load()
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(log, arguments)

    def poll(self) -> int | None:
        """The exit code, minus a signal where one ended it; None while it is at work."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("scan-tf", timeout or 0)
            time.sleep(_SEEN_S)
        return int(self.returncode or 0)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _load() -> None:
    if "tensorflow" in sys.modules:
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for package in ("data", "augment", "models", "methods", "features", "training", "pipeline"):
        found = importlib.import_module(f"scan_tf.{package}")
        for module in pkgutil.iter_modules(found.__path__, f"scan_tf.{package}."):
            importlib.import_module(module.name)


def _become(log: Path, arguments: Sequence[str]) -> None:
    """Be the program, and end."""
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        import tensorflow as tf

        from scan_tf import cli

        signal.signal(signal.SIGINT, signal.default_int_handler)
        tf.config.run_functions_eagerly(True)
        code = cli.main(arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
