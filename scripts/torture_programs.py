"""scan-tf at work beside the script, as users start it or quickly.

Most of the time of a tiny run goes into loading TensorFlow and compiling the steps. Many kills are
done sooner with neither: a copy of this process, which has loaded it, becomes the program, and its
steps are run op by op.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The program of this checkout, wherever the script is started; what it says is seen at once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
_SEEN_S = 0.005
_EAGER = "import tensorflow as tf\ntf.config.run_functions_eagerly(True)\n"
_MAIN = "import sys\nfrom scan_tf import cli\nsys.exit(cli.main())\n"
# Runs one command after the other in one process: a line of JSON in, an exit code out.
_WORKER = """
import json, os, sys, traceback
from scan_tf import cli
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    log, arguments = json.loads(line)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    try:
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    print(code, file=answers, flush=True)
"""


def command(*, quick: bool) -> list[str]:
    """The words that start the program; quick: its steps are not compiled."""
    return [sys.executable, *(("-c", _EAGER + _MAIN) if quick else ("-m", "scan_tf.cli"))]


def start(log: Path, arguments: Sequence[str], *, quick: bool) -> subprocess.Popen[bytes] | Forked:
    """The program at work.

    Args:
        log: gets what it says.
        arguments: its arguments.
        quick: TensorFlow is not loaded anew, and steps are not compiled.
    """
    if quick:
        return Forked(log, arguments)
    with open(log, "wb") as output:
        return subprocess.Popen(
            [*command(quick=False), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            preexec_fn=_let_interrupt,
        )


def text_of(log: Path) -> str:
    """The last that the program said."""
    return log.read_text(errors="replace")[-2000:]


def wait(process: Program, seconds: float) -> None:
    """Wait for a program, but no longer than that."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


class Forked:
    """A program at work in a copy of this process, with what `subprocess.Popen` has."""

    def __init__(self, log: Path, arguments: Sequence[str]):
        _load()
        log.write_bytes(b"")
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


Program = subprocess.Popen[bytes] | Forked


class Worker:
    """A program that is not killed between commands, so that TensorFlow is loaded once."""

    def __init__(self, *, quick: bool) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._begin = _EAGER if quick else ""

    def run(self, log: Path, *arguments: object) -> int:
        """The exit code of a command; minus a signal, where it ended the process."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._begin + _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=ENVIRONMENT,
                text=True,
            )
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("these are pipes")
        process.stdin.write(json.dumps([str(log), [*map(str, arguments)]]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        return int(answer) if answer else process.wait()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.communicate()


def _let_interrupt() -> None:
    """Have SIGINT interrupt, as in a terminal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _load() -> None:
    if "tensorflow" in sys.modules:
        return
    sys.path.insert(0, str(ROOT))
    for package in ("data", "augment", "models", "methods", "features", "training", "pipeline"):
        found = importlib.import_module(f"scan_tf.{package}")
        for module in pkgutil.iter_modules(found.__path__, f"scan_tf.{package}."):
            importlib.import_module(module.name)


def _become(log: Path, arguments: Sequence[str]) -> None:
    """Be the program, and end."""
    code = 1
    try:
        file = os.open(log, os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)
        import tensorflow as tf

        from scan_tf import cli

        _let_interrupt()
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
