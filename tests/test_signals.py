"""Signals end a program wherever they arrive: in a thread's wait, behind what swallows them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scan_tf import machine, signals
from scan_tf.errors import Interrupted, ScanError

ROOT = Path(__file__).parents[1]
# A command that is the given lines, and signals itself from a timer's handler.
PROGRAM = """
import os, signal, sys, threading, time
from scan_tf import signals
from scan_tf.cli import program
signals._AGAIN_S, signals._END_S, signals._HELD_S = 0.3, 0.8, 1.5
def send(number=int(sys.argv[1])):
    os.kill(os.getpid(), number)
def command(_):
{body}
class Parser:
    def parse_known_args(self, argv):
        return type('', (), {{'function': staticmethod(command), 'command': 'run'}})(), []
program._parser = Parser
sys.exit(program.main())
"""
WHERE = {
    "in plain code": "send(); time.sleep(60)",
    "behind except Exception": """
try:
    send(); time.sleep(60)
except Exception as error:
    raise program.ScanError('weights.npz: damaged') from error""",
    "wrapped": """
try:
    send(); time.sleep(60)
except BaseException as error:
    raise RuntimeError('Exception encountered when calling a layer') from error""",
    "swallowed": """
try:
    send(); time.sleep(60)
except BaseException:
    time.sleep(60)""",
    "swallowed twice": """
for _ in range(2):
    try:
        send(); time.sleep(60)
    except BaseException: pass
time.sleep(60)""",
    "in a destructor": """
class Late:
    def __del__(self): send(); time.sleep(0.01)
Late(); time.sleep(60)""",
    "in compiled code": """
import ctypes
threading.Timer(0.1, send).start()
left = 60
while left: left = ctypes.CDLL(None).sleep(left)""",
    "in a pool of threads": """
from scan_tf import machine
threading.Timer(0.1, send).start()
with machine.threads(2) as pool:
    [f.result() for f in [pool.submit(time.sleep, 0.3) for _ in range(400)]]""",
    "printed by C code": """
try:
    send(); time.sleep(60)
except BaseException:
    sys.excepthook(*sys.exc_info())
    raise""",
    "while a step is made": """
with signals.Deferred() as deferred:
    send(); time.sleep(0.1)
assert deferred.received""",
    "in the first step, which is compiled": """
with signals.Deferred():
    send(); time.sleep(60)""",
    "in a step that does not end": """
with signals.Deferred() as deferred:
    deferred.holds = True
    send(); time.sleep(60)""",
    "as the command ends": "send()",
}


def ended(body: str, number: int) -> subprocess.CompletedProcess[str]:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=lines), str(int(number))],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.parametrize("where", WHERE)
def test_a_signal_ends_the_program_wherever_it_arrives(where):
    number = signal.SIGINT if len(where) % 2 else signal.SIGTERM
    start = time.monotonic()
    done = ended(WHERE[where], number)
    assert done.returncode == 128 + number, done.stderr
    assert time.monotonic() - start < 20
    assert "Run the same command, without --redo, to go on" in done.stderr
    assert "damaged" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored in" not in done.stderr


def test_without_a_signal_errors_are_printed(capsys):
    hooks = sys.excepthook, sys.unraisablehook
    with signals.Program():
        sys.excepthook(ValueError, ValueError("of something else"), None)
    assert "of something else" in capsys.readouterr().err
    assert (sys.excepthook, sys.unraisablehook) == hooks


def test_without_a_signal_nothing_is_ended(capsys):
    handler = signal.getsignal(signal.SIGTERM)
    with signals.Program() as program:
        assert signals.program() is program
    assert signals.program() is None
    assert signal.getsignal(signal.SIGTERM) is handler
    assert program.exit_code == 0
    assert capsys.readouterr().err == ""


def test_who_sends_the_signal_itself_keeps_its_own_exit_code():
    with signals.Program() as program:
        program.by_clock = True
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
    assert program.exit_code == 0


def test_an_interruption_is_no_error():
    assert not issubclass(Interrupted, ScanError)
    assert not issubclass(Interrupted, Exception)


def test_a_signal_that_nobody_has_looked_at_is_raised_in_the_end():
    def noted() -> None:
        with signals.Deferred() as deferred:
            signal.raise_signal(signal.SIGINT)
            assert deferred.received == signal.SIGINT

    with pytest.raises(Interrupted) as end:
        noted()
    assert end.value.exit_code == 130


def test_threads_do_not_begin_what_nobody_waits_for():
    begun = []

    def wait(number: int) -> None:
        begun.append(number)
        time.sleep(0.02)

    def leave() -> None:
        with machine.threads(1) as pool:
            waiting = [pool.submit(wait, number) for number in range(50)]
            waiting[0].result()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert len(begun) < 5
