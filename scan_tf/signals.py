"""SIGINT and SIGTERM: a program ends within seconds, with 128 + the number, wherever they arrive.

The handler raises `Interrupted`, which nothing that catches `Exception` takes for an error of its
own. What swallows it all the same gets it once more; what is in compiled code for long, where no
handler runs, is ended by a thread as a kill would: no file is ever half written under its name.
Training notes the signal instead, so that the step can end and be saved first.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from scan_tf.errors import Interrupted

GO_ON = "Run the same command, without --redo, to go on."
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
# Seconds after a signal: when it is raised again, and when the process is ended.
_AGAIN_S, _END_S = 2.0, 5.0
# So long a step that is to be saved may take to end; batch systems kill after 30.
_HELD_S = 25.0
_POLL_S = 0.1
_STOP = b"\0"


class Program:
    """The context of a whole program, which ends it soon after a signal.

    Outside of the main thread, where Python lets nobody handle signals, it does nothing.

    Attributes:
        number: of the signal that came; 0: none.
        by_clock: set by who sends the signal itself and ends the process in its own time.
    """

    def __init__(self) -> None:
        self.number, self.by_clock = 0, False
        self._before: dict[int, Any] = {}
        self._over = threading.Event()

    @property
    def exit_code(self) -> int:
        """128 + the number; 0 where no signal came that is to end the program."""
        return 128 + self.number if self.number and not self.by_clock else 0

    def __enter__(self) -> Program:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        for number in _NUMBERS:
            self._before[number] = signal.signal(number, self._raise)
        self._hooks = sys.excepthook, sys.unraisablehook
        sys.excepthook, sys.unraisablehook = self._print, self._print_unraisable
        # The number is written there at once, by C code, while Python's handler waits its turn.
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        self._over.set()
        sys.excepthook, sys.unraisablehook = self._hooks
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        with contextlib.suppress(BlockingIOError):  # full, so that it is read anyway
            os.write(self._write, _STOP)
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _raise(self, number: int, _: FrameType | None) -> None:
        self.number = number
        raise Interrupted(
            number, f"{'interrupted' if number == signal.SIGINT else 'terminated'}. {GO_ON}"
        )

    def _print(self, *error: Any) -> None:
        """Called by C code that prints an error and goes on, as TensorFlow's does."""
        if not self.number:  # else it comes of the interruption
            self._hooks[0](*error)

    def _print_unraisable(self, found: sys.UnraisableHookArgs) -> None:
        if not (found.exc_type and issubclass(found.exc_type, Interrupted)):
            self._hooks[1](found)

    def _watch(self) -> None:
        while not self._over.is_set():
            for number in os.read(self._read, 64):
                if number in _NUMBERS and not self.by_clock:
                    self._end(number)
                    return

    def _end(self, number: int) -> None:
        """Wait for the program to end, and end it where it does not."""
        self.number = number
        came = time.monotonic()
        again, end = came + _AGAIN_S, came + _END_S
        while (now := time.monotonic()) < end:
            if self._over.wait(_POLL_S) or self.by_clock:
                return
            handler = signal.getsignal(number)
            deferred = getattr(handler, "__self__", None)
            if isinstance(deferred, Deferred) and deferred.holds and now < came + _HELD_S:
                again, end = now + _AGAIN_S, now + _END_S
            elif now >= again and handler == self._raise:
                again = end
                os.kill(os.getpid(), number)
        name = signal.Signals(number).name
        _say(f"\nscan-tf: did not stop within {now - came:.0f} s of {name} and was ended. {GO_ON}")
        os._exit(128 + number)


def program() -> Program | None:
    """The program that handles SIGTERM just now, if one does."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if isinstance(owner, Program) else None


class Deferred:
    """A context in which signals are noted, so that a step can end first; raised at its end.

    Attributes:
        received: the number of the signal that came; 0: none.
        holds: whether work would be lost if the process ended now.

    Raises:
        Interrupted: at the end, where a signal came that nobody has acted on.
    """

    def __init__(self) -> None:
        self.received, self.holds = 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Deferred:
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in _NUMBERS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received and kind is None:
            raise Interrupted(self.received, f"stopped. {GO_ON}")

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number


def _say(text: str) -> None:
    """Write to stderr, unless nobody reads it and writing would wait."""
    if select.select([], [2], [], 0)[1]:
        os.write(2, f"{text}\n".encode())
