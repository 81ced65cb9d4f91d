"""How far a stage is: a bar on a terminal, plain lines elsewhere, a file for `scan-tf status`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from scan_tf.storage import files

FILE = "progress.json"
# The time left means something after so many calls and seconds since the step was compiled.
_CALLS, _SECONDS = 3, 3.0
_LINE_S, _FILE_S = 30.0, 5.0
_BAR = "  {desc}: {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """Tells how far a stage is, how fast it is and how long the rest takes; a context.

    Args:
        directory: of the stage; `progress.json` is written there: step, total, steps_per_second
            (None while unknown), compile_s.
        total: steps in all.
        start: steps that are done already.
        shown: whether anything is printed.
        when_known: called once, as soon as the rate means something.

    Attributes:
        compile_s: time of the first call.
    """

    def __init__(
        self,
        directory: Path,
        total: int,
        start: int,
        *,
        shown: bool,
        when_known: Callable[[Progress], None] | None = None,
    ):
        self.name, self.path = directory.name, directory / FILE
        self.total, self.step, self.shown = total, start, shown
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=self.name,
            unit="step",
            disable=not (shown and sys.stderr.isatty()),
            bar_format=_BAR,
        )
        self.compile_s = 0.0
        self._when_known = when_known
        self._metrics = ""
        self._calls, self._first = 0, (0.0, start)
        self._told = self._written = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._write()

    def say(self, text: str) -> None:
        """Print a line; above the bar, where there is one."""
        if self.shown:
            tqdm.write(text)

    def announce(self, compiler: str) -> None:
        """Say that the step is being compiled, which takes long and shows nothing."""
        self.say(f"  {self.name}: compiling the training step ({compiler}) ...")
        self._told = time.monotonic()

    def compiled(self, compiler: str) -> None:
        """Say how long that took."""
        self.compile_s = time.monotonic() - self._told
        self.say(f"  {self.name}: compiling ({compiler}) took {self.compile_s:.1f} s")

    def log(self, metrics: Mapping[str, float]) -> None:
        """Show the latest metrics."""
        shown = [f"{k} {v:.4g}" for k, v in metrics.items() if k not in ("step", "epoch", "lr")]
        self._metrics = " ".join(shown)

    def update(self, step: int) -> None:
        """So many steps are done."""
        now, self.step = time.monotonic(), step
        if not self._calls:
            self._first = (now, step)
        self._calls += 1
        if self._when_known is not None and self.rate() is not None:
            self._when_known(self)
            self._when_known = None
        if now - self._written > _FILE_S:
            self._written = now
            self._write()
        self._bar.set_postfix_str(self._text(), refresh=False)
        self._bar.update(step - self._bar.n)
        if self.shown and self._bar.disable and now - self._told > _LINE_S:
            self._told = now
            share = f"step {step:,} of {self.total:,} ({step / self.total:.0%})"
            print(f"  {self.name}: {', '.join(filter(None, (share, self._text())))}", flush=True)

    def rate(self) -> float | None:
        """Steps per second since the first call; None while that means nothing."""
        began, first = self._first
        seconds = time.monotonic() - began
        if self._calls <= _CALLS or seconds < _SECONDS:
            return None
        return (self.step - first) / seconds

    def _text(self) -> str:
        rate = self.rate()
        if rate is None:
            return self._metrics
        left = duration((self.total - self.step) / rate)
        return f"{rate:.3g} steps/s, {left} left, {self._metrics}".rstrip(", ")

    def _write(self) -> None:
        facts = {
            "step": self.step,
            "total": self.total,
            "steps_per_second": self.rate(),
            "compile_s": round(self.compile_s, 2),
        }
        files.write_text(self.path, json.dumps(facts) + "\n")


def duration(seconds: float) -> str:
    """A time in words, such as "40 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
