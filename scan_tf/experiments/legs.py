"""A run in legs: on machines that are lent for minutes, as far as the wall clock allows.

A leg runs the ordinary stages. Before its budget ends it stops them as SIGTERM does, with all
saved; what has not stopped at the end of the budget is ended as by a kill, which loses the work
since the last checkpoint and nothing more. The run directory is the only state: the next leg goes
on from there, here or, after `packs.pack` and `packs.unpack`, on another machine. Each leg adds a
line to `campaign.jsonl` in the run directory: when, where, how far, how fast.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from scan_tf import files, machine
from scan_tf.errors import TO_BE_CONTINUED, ConfigError, Interrupted, ScanError, StageError
from scan_tf.experiments import sweep
from scan_tf.features.embedding import embed
from scan_tf.files import read_metrics
from scan_tf.machine import hardware
from scan_tf.pipeline import build, stages
from scan_tf.pipeline.run_dir import STAGES, Run

# Seconds before the end of the budget at which a leg stops: a step, an epoch's scores, a save.
MARGIN_S = 20.0
_TRAINED = ("pretext", "scan", "selflabel")
_POLL_S = 0.5
_REPEAT_SIGNAL_S = 5.0


def run(
    work: Run,
    *,
    budget_s: float,
    margin_s: float = MARGIN_S,
    seeds: Sequence[int] = (),
    start: float | None = None,
) -> bool:
    """Run one leg: the stages that are not done yet, then the clustering with other seeds.

    Args:
        work: the run.
        budget_s: the leg ends within so many seconds; the process is ended at that moment if need
            be, with the exit code TO_BE_CONTINUED.
        margin_s: so long before the end of the budget the stages are told to stop.
        seeds: `clustering_seed`s with which scan and selflabel are repeated at last.
        start: `time.monotonic()` from which the budget counts; None: now.

    Returns:
        Whether all is done; otherwise the same call goes on.

    Raises:
        ConfigError: the budget is not longer than the margin.
        StageError: nothing got further in the whole budget, as another leg would not either.
        ScanError: as for `stages.run_all` and `sweep.repeat`.
    """
    if not 0 <= margin_s < budget_s:
        raise ConfigError(
            f"--budget-minutes: {budget_s / 60:.3g} leave no time to work before the margin of "
            f"{margin_s:.0f} s to stop and save. Give more, or a smaller --margin-seconds."
        )
    leg = _Leg(work, time.monotonic() if start is None else start, budget_s, margin_s)
    with leg:
        try:
            _remake_features(work)
            stages.run_all(work)
            if seeds:
                sweep.repeat(work, seeds)
        except ScanError as error:
            if not (leg.expired and _is_interruption(error)):
                raise
        else:
            leg.finished = True
    print(describe(work))
    leg.check_progress()
    return leg.finished


def describe(work: Run) -> str:
    """How far each stage is, how fast it was, and how many minutes of training remain."""
    lines, rates = [], _rates(work)
    for stage in STAGES:
        record = work.record(stage)
        status = record.get("status", "not begun")
        text = f"{stage:10}{status}"
        done, total = _steps(work, stage)
        if status == "done":
            text = f"{stage:10}done in {record['wall_time_s'] / 60:.1f} min"
        elif stage in _TRAINED and total:
            text = f"{stage:10}step {done:,} of {total:,} ({done / total:.1%})"
            if stage in rates:
                minutes = (total - done) / rates[stage] / 60
                text += f", {rates[stage]:.3g} steps/s: about {minutes:.1f} min remain"
        elif stage in _TRAINED:
            text += f", {getattr(work.config, stage).epochs} epochs; time not known yet"
        lines.append(text)
    return "\n".join(lines)


class _Leg(threading.Thread):
    """A clock beside the stages: measures their rates, and stops them before the budget ends.

    As a context it is also the leg's record in `campaign.jsonl`.
    """

    def __init__(self, work: Run, start: float, budget_s: float, margin_s: float):
        super().__init__(daemon=True)
        self.work, self.start_s, self.end = work, start, start + budget_s
        self.stop_at = self.end - margin_s
        self.expired = self.finished = False
        self._over = threading.Event()
        # Of each stage the first and the latest (time, step) seen in this leg.
        self._seen: dict[str, list[tuple[float, int]]] = {}
        self._before = {s: _logged(work, s) for s in _TRAINED}
        self._position = _position(work)
        now = datetime.datetime.now(datetime.timezone.utc)
        self._row = {"begun": now.isoformat(timespec="seconds"), **machine.environment()}
        self._row |= {"hardware": hardware(), "device": vars(work.device)}
        self._handler: Any = None

    def __enter__(self) -> _Leg:
        self._handler = signal.signal(signal.SIGTERM, _terminate)
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()
        signal.signal(signal.SIGTERM, self._handler)
        how = "done" if self.finished else "budget" if self.expired else "error or signal"
        self._record(how)

    def check_progress(self) -> None:
        """Raise StageError where the whole budget has brought nothing."""
        if self.expired and not self.finished and _position(self.work) == self._position:
            minutes = (self.end - self.start_s) / 60
            raise StageError(
                f"{self.work.root}: nothing got further within {minutes:.3g} minutes, and another "
                "leg would not either. Give a larger --budget-minutes."
            )

    def run(self) -> None:
        """Watch until the leg is over."""
        signalled = -_REPEAT_SIGNAL_S
        while not self._over.wait(_POLL_S):
            self._look()
            now = time.monotonic()
            if now >= self.end:
                self._give_up()
            # Again, because code in between may take the exception for an error of its own.
            if now >= self.stop_at and now - signalled >= _REPEAT_SIGNAL_S:
                self.expired, signalled = True, now
                os.kill(os.getpid(), signal.SIGTERM)

    def _look(self) -> None:
        for stage in _TRAINED:
            step, seen = _logged(self.work, stage), self._seen.setdefault(stage, [])
            latest = seen[-1][1] if seen else self._before[stage]
            if step < latest:  # rows after the last checkpoint are taken back
                self._before[stage] = step
                seen.clear()
            elif step > latest:
                seen[1:] = [(time.monotonic(), step)]

    def _give_up(self) -> None:
        """End the process as a kill would; no file is ever half written under its name."""
        self.expired = True
        self._record("killed at the end of the budget")
        code, text = TO_BE_CONTINUED, "did not stop in time and was ended. Run it again to go on."
        try:
            self.check_progress()
        except StageError as error:
            code, text = error.exit_code, str(error)
        print(f"\ncampaign: {text}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _record(self, ended: str) -> None:
        if not self.work.root.exists():
            return  # nothing was begun
        moved = {stage: seen for stage, seen in self._seen.items() if seen}
        rates = {
            stage: (last[1] - first[1]) / (last[0] - first[0])
            for stage, (first, *rest) in moved.items()
            for last in rest
        }
        self._row |= {
            "minutes": round((time.monotonic() - self.start_s) / 60, 2),
            "ended": ended,
            "steps": {stage: [self._before[stage], seen[-1][1]] for stage, seen in moved.items()},
            "steps_per_second": {stage: round(rate, 4) for stage, rate in rates.items()},
        }
        with open(self.work.root / "campaign.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(self._row) + "\n")


def _remake_features(work: Run) -> None:
    """Embed the images again where the features were left behind and are still needed."""
    path = work.folder("neighbors") / "features.npz"
    if path.exists() or not work.is_done("neighbors") or work.is_done("evaluate"):
        return
    print("neighbors: making the features again")
    task = build.trained_pretext(work)
    embedded = {
        split: embed(task.embed, images, **work.inference(f"features of {split}"))
        for split in ("train", "test")
        if (images := work.images(split)) is not None
    }
    files.write_npz(path, embedded, {})


def _position(work: Run) -> list[Any]:
    """What a leg can advance: stages done, steps saved, seeds finished."""
    done = [work.record(stage).get("status") == "done" for stage in STAGES]
    seeds = sorted(work.root.glob("sweeps/seeds*/seed-*/status/*.json"))
    saved = [(str(f), f.stat().st_mtime_ns) for f in sorted(work.root.rglob("state.npz"))]
    return [done, seeds, saved]


def _steps(work: Run, stage: str) -> tuple[int, int]:
    """Steps saved and steps in all of a training stage; 0 where unknown."""
    rows = read_metrics(work.folder(stage) / "metrics.jsonl") if stage in _TRAINED else []
    path = work.folder(stage) / "ckpt" / "state.npz"
    if not rows or not path.exists():
        return 0, 0
    _, manifest = files.read_npz(path)
    steps_per_epoch = round(rows[-1]["step"] / rows[-1]["epoch"])  # epochs have four decimals
    return int(manifest["step"]), getattr(work.config, stage).epochs * steps_per_epoch


def _rates(work: Run) -> dict[str, float]:
    """Steps per second of each stage in the last leg that measured it."""
    rates: dict[str, float] = {}
    for row in read_metrics(work.root / "campaign.jsonl"):
        rates |= {k: v for k, v in row["steps_per_second"].items() if v > 0}
    return rates


def _logged(work: Run, stage: str) -> int:
    """The step of the last complete row of `metrics.jsonl`, read from the end of the file."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        with open(work.folder(stage) / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            line = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
        return int(json.loads(line)["step"])
    return 0


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, an interruption."""
    while error is not None:
        if isinstance(error, Interrupted):
            return True
        error = error.__cause__ or error.__context__
    return False


def _terminate(number: int, _: object) -> None:
    raise Interrupted(number, "terminated. Run the same command to go on.")
