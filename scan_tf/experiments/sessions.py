"""A run in several sessions, each under a time limit: the limit, an estimate and a journal.

A session runs the ordinary stages. Before its time is over it stops them as SIGTERM does, with all
saved; what has not stopped at the end is ended as by a kill, which loses the work since the last
checkpoint and nothing more. The run directory is the only state: the next session goes on from
there, here or, after `packs.pack` and `packs.unpack`, on another machine. Each session adds a line
to `sessions.jsonl` in the run directory: when, where, how far, how fast.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scan_tf import machine, signals
from scan_tf.errors import TO_BE_CONTINUED, ConfigError, Interrupted
from scan_tf.experiments import sweep
from scan_tf.pipeline import stages
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import STAGES, TRAINED
from scan_tf.storage import files
from scan_tf.storage.files import read_metrics

# Seconds before the end at which a session stops: a step, an epoch's scores, a save.
MARGIN_S = 20.0
JOURNAL = "sessions.jsonl"
_OLDER = "campaign.jsonl"  # its name in older runs
_POLL_S = 0.5
_REPEAT_SIGNAL_S = 5.0


def run(
    run: Run,
    *,
    budget_s: float,
    margin_s: float = MARGIN_S,
    seeds: Sequence[int] = (),
    start: float | None = None,
) -> bool:
    """Run one session: the stages that are not done yet, then the clustering with other seeds.

    Args:
        run: the run.
        budget_s: the session ends within so many seconds; the process is ended at that moment if
            need be, with the exit code TO_BE_CONTINUED.
        margin_s: so long before the end of the budget the stages are told to stop.
        seeds: `clustering_seed`s with which scan and selflabel are repeated at last.
        start: `time.monotonic()` from which the budget counts; None: now.

    Returns:
        Whether all is done; otherwise the same call goes on.

    Raises:
        ConfigError: the budget is not longer than the margin.
        ScanError: as for `stages.run_all` and `sweep.repeat`.
    """
    if not 0 <= margin_s < budget_s:
        raise ConfigError(
            f"--stop-after: {budget_s / 60:.3g} leave no time to work before the margin of "
            f"{margin_s:.0f} s to stop and save. Give more, or a smaller --margin."
        )
    start = time.monotonic() if start is None else start
    run.claim()
    journal = Journal(run, start)
    limit = TimeLimit(start + budget_s, margin_s, meanwhile=journal.look, at_end=journal.write)
    ended = "error or signal"
    try:
        with limit:
            stages.run_all(run)
            if seeds:
                sweep.repeat(run, seeds)
        ended = "done"
    except BaseException as error:
        if not (limit.expired and _is_interruption(error)):
            raise
        ended = "budget"
    finally:
        journal.write(ended)
    print(describe(run))
    return ended == "done"


def journal(root: Path) -> list[dict[str, Any]]:
    """The lines of all sessions of a run directory, the first session first."""
    return [row for name in (_OLDER, JOURNAL) for row in read_metrics(root / name)]


def describe(run: Run) -> str:
    """How far each stage is, how fast it was, and how many minutes of training remain."""
    lines, rates = [], _rates(run)
    for stage in STAGES:
        record = run.record(stage)
        text = f"{stage:10}{record.status}"
        done, total = _steps(run, stage)
        if record.is_done:
            text = f"{stage:10}done in {record.wall_time_s / 60:.1f} min"
        elif stage in TRAINED and total:
            text = f"{stage:10}step {done:,} of {total:,} ({done / total:.1%})"
            if stage in rates:
                minutes = (total - done) / rates[stage] / 60
                text += f", {rates[stage]:.3g} steps/s: about {minutes:.1f} min remain"
        elif stage in TRAINED:
            text += f", {getattr(run.config, stage).epochs} epochs; time not known yet"
        lines.append(text)
    return "\n".join(lines)


class TimeLimit:
    """A context that sends the process SIGTERM some time before an end, and ends it at the end.

    Args:
        end: `time.monotonic()` of the end.
        margin_s: so many seconds before it the signal is sent, and then again and again, because
            code in between may take the exception for an error of its own.
        meanwhile: called now and then while the time runs.
        at_end: called with the reason before the process is ended.

    Attributes:
        expired: whether the signal has been sent.
    """

    def __init__(
        self,
        end: float,
        margin_s: float,
        *,
        meanwhile: Callable[[], None],
        at_end: Callable[[str], None],
    ):
        self.end, self.stop_at = end, end - margin_s
        self.meanwhile, self.at_end = meanwhile, at_end
        self.expired = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._handler: Any = None
        self._program: signals.Program | None = None

    def __enter__(self) -> TimeLimit:
        self._program = signals.program()
        self._handler = signal.getsignal(signal.SIGTERM)
        if self._program is None:
            signal.signal(signal.SIGTERM, _terminate)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGTERM, self._handler)

    def _watch(self) -> None:
        signalled = -_REPEAT_SIGNAL_S
        while not self._over.wait(_POLL_S):
            self.meanwhile()
            now = time.monotonic()
            if now >= self.end:
                self._give_up()
            if now >= self.stop_at and now - signalled >= _REPEAT_SIGNAL_S:
                self.expired, signalled = True, now
                if self._program is not None:
                    self._program.by_clock = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _give_up(self) -> None:
        """End the process as a kill would; no file is ever half written under its name."""
        self.at_end("killed at the end of the budget")
        print("\nscan-tf: did not stop in time and was ended. Run it again.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(TO_BE_CONTINUED)


class Journal:
    """The line of a session in `sessions.jsonl`.

    Args:
        run: the run.
        start: `time.monotonic()` at which the session began.
    """

    def __init__(self, run: Run, start: float):
        self.run, self.start = run, start
        # Of each stage the step at the start, and the first and the latest (time, step) seen.
        self._before = {stage: _logged(run, stage) for stage in TRAINED}
        self._seen: dict[str, list[tuple[float, int]]] = {}
        now = datetime.datetime.now(datetime.timezone.utc)
        self._row = {"begun": now.isoformat(timespec="seconds"), **machine.environment()}
        self._row |= {"hardware": machine.hardware(), "device": vars(run.device)}

    def look(self) -> None:
        """Note how far the stages are, from which the rates are known at the end."""
        for stage in TRAINED:
            step, seen = _logged(self.run, stage), self._seen.setdefault(stage, [])
            latest = seen[-1][1] if seen else self._before[stage]
            if step < latest:  # rows after the last checkpoint are taken back
                self._before[stage] = step
                seen.clear()
            elif step > latest:
                seen[1:] = [(time.monotonic(), step)]

    def write(self, ended: str) -> None:
        """Add the line, with the reason for which the session ended; unless nothing was begun."""
        if not self.run.root.exists():
            return
        moved = {stage: seen for stage, seen in self._seen.items() if seen}
        rates = {
            stage: (last[1] - first[1]) / (last[0] - first[0])
            for stage, (first, *rest) in moved.items()
            for last in rest
        }
        self._row |= {
            "minutes": round((time.monotonic() - self.start) / 60, 2),
            "ended": ended,
            "steps": {stage: [self._before[stage], seen[-1][1]] for stage, seen in moved.items()},
            "steps_per_second": {stage: round(rate, 4) for stage, rate in rates.items()},
        }
        path = self.run.root / JOURNAL
        with files.room(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(self._row) + "\n")


def _steps(run: Run, stage: str) -> tuple[int, int]:
    """Steps saved and steps in all of a training stage; 0 where unknown."""
    rows = read_metrics(run.folder(stage) / "metrics.jsonl") if stage in TRAINED else []
    path = run.folder(stage) / "ckpt" / "state.npz"
    if not rows or not path.exists():
        return 0, 0
    _, manifest = files.read_npz(path)
    steps_per_epoch = round(rows[-1]["step"] / rows[-1]["epoch"])  # epochs have four decimals
    return int(manifest["step"]), getattr(run.config, stage).epochs * steps_per_epoch


def _rates(run: Run) -> dict[str, float]:
    """Steps per second of each stage in the last session that measured it."""
    rates: dict[str, float] = {}
    for row in journal(run.root):
        rates |= {k: v for k, v in row.get("steps_per_second", {}).items() if v > 0}
    return rates


def _logged(run: Run, stage: str) -> int:
    """The step of the last complete row of `metrics.jsonl`."""
    rows = read_metrics(run.folder(stage) / "metrics.jsonl")
    return int(rows[-1]["step"]) if rows else 0


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, an interruption."""
    while error is not None:
        if isinstance(error, Interrupted):
            return True
        error = error.__cause__ or error.__context__
    return False


def _terminate(number: int, _: object) -> None:
    raise Interrupted(number, f"terminated. {signals.GO_ON}")
