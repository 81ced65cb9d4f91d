"""Tiny runs that are stopped, and their comparison with runs that were never stopped."""

from __future__ import annotations

import collections
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torture_cases
import torture_programs
import torture_results
from torture_programs import ROOT, Program, text_of, wait

# Seconds within which a program has to end after a signal that it can handle.
PATIENCE_S = 35.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# How many kills of ten come before the program has begun its work.
_EARLY = 1
# The others come within this share of what the stages take: so that a run is killed several times,
# and gets through every stage all the same.
_SOON = 0.5


class OutOfTime(Exception):
    """Nothing new is to be begun."""


class Torture:
    """What was tried and what came of it.

    Args:
        folder: where runs and logs go.
        seed: of the moments and the signals.
        epochs: of each stage.
        minutes: after which nothing new is begun; None: there is no end.
        quick: TensorFlow is loaded once, and steps are not compiled; see `torture_programs`.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        epochs: int,
        *,
        minutes: float | None = None,
        quick: bool = False,
    ):
        self.folder, self.seed, self.epochs, self.quick = folder, seed, epochs, quick
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.tried: collections.Counter[tuple[str, str]] = collections.Counter()
        self.wrong: list[tuple[str, str, str]] = []
        self.slowest = 0.0
        self.worker = torture_programs.Worker(quick=quick)
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._commit, self._code = _commit(), _code()

    def check(self, fault: str, where: str, good: bool, what: str) -> None:
        """Count a try; note what is wrong."""
        self.tried[fault, where] += 1
        if not good:
            self.wrong.append((fault, where, what))
            print(f"WRONG: {fault}, {where}: {what}", flush=True)

    @property
    def is_over(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._end is not None and time.monotonic() > self._end

    def go_on(self) -> None:
        """Raise OutOfTime where the time is over."""
        if self.is_over:
            raise OutOfTime

    def tell(self, path: Path) -> None:
        """Add what was tried to a file of results."""
        rows = []
        for (fault, where), tried in self.tried.items():
            wrong = [what for name, place, what in self.wrong if (name, place) == (fault, where)]
            row = {"fault": fault, "where": where, "commit": self._commit, "seed": self.seed}
            rows.append(row | {"tried": tried, "wrong": wrong, "slowest_s": round(self.slowest, 2)})
        with open(path, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def start(self, log: Path, *arguments: object) -> Program:
        """The program at work, what it says in a file."""
        return torture_programs.start(log, [*map(str, arguments)], quick=self.quick)

    def new(self, name: str, case: str) -> Path:
        """A run directory of which nothing is made yet."""
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        torture_cases.write(run, case, epochs=self.epochs)
        return run

    def whole(self, case: str) -> Path:
        """A run that was never stopped; made where the folder has none of this code."""
        how = "-quick" if self.quick else ""
        name = f"{case}-{self.epochs}-{self._code}{how}"
        run, log = self.folder / name, self.folder / f"{name}.log"
        with open(self.folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another part may want it too
            if not (self.folder / f"{name}.done").exists():
                start = time.monotonic()
                run = self.new(name, case)
                if self.start(log, "run", "--run-dir", run).wait():
                    raise SystemExit(f"the run without faults failed:\n{text_of(log)}")
                print(f"{case}: {time.monotonic() - start:.0f} s without faults", flush=True)
                (self.folder / f"{name}.done").touch()
        return run

    def kills(self, case: str, count: int) -> None:
        """Stop runs at `count` random moments; compare each that gets to its end."""
        self.go_on()
        self.random = random.Random(f"{self.seed} {case}")  # noqa: S311 - no secret
        whole, stopped = self.whole(case), 0
        took_s = sum(_record(p)["wall_time_s"] for p in (whole / "status").glob("*.json"))
        while stopped < count:
            name = f"{case}-killed-{self.seed}"
            run, log = self.new(name, case), self.folder / f"{name}.log"
            while True:
                process = self.start(log, "run", "--run-dir", run)
                kind = self.random.choice(SIGNALS)
                if stopped < count:
                    self._wait(process, log, _SOON * took_s)
                else:
                    process.wait()
                if process.poll() is None:
                    stopped += 1
                    self.stop(process, log, kind, f"{case}: {_at_work(run)}")
                    if self.is_over:
                        count = stopped  # this run gets to its end and is compared
                    continue
                code = process.returncode
                self.check("run to its end", case, code == 0, f"exit code {code}: {text_of(log)}")
                break
            if process.returncode == 0:
                self.compare(whole, run, case)
            shutil.rmtree(run)
            self.go_on()

    def _wait(self, process: Program, log: Path, soon_s: float) -> None:
        """Wait for a random moment, mostly of the work that is left."""
        if self.random.randrange(10) < _EARLY:
            wait(process, self.random.uniform(0, 3))
            return
        while process.poll() is None and not log.stat().st_size:
            time.sleep(0.02)
        wait(process, self.random.uniform(0, soon_s))

    def stop(self, process: Program, log: Path, kind: signal.Signals, where: str) -> int:
        """Send a signal, and see the program end as it should; its exit code."""
        sent = time.monotonic()
        process.send_signal(kind)
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        took = time.monotonic() - sent
        self.slowest = max(self.slowest, took)
        # Before Python has come to the program the signal ends it as it ends any other.
        good = {-kind} if kind == signal.SIGKILL else {128 + kind, -kind}
        text = text_of(log)
        good_text = code == -kind or "Traceback" not in text
        what = f"ended with {code} after {took:.1f} s: {text}"
        self.check(kind.name, where, (code in good and good_text) or code == 0, what)
        return code

    def compare(self, whole: Path, run: Path, where: str) -> None:
        """The results of two runs, bit for bit."""
        different = torture_results.differences(whole, run)
        left = [str(p) for p in run.rglob(".*") if p.suffix in (".tmp", ".old")]
        what = f"differs: {different}; left over: {left}"
        self.check("the same bits as without faults", where, not different and not left, what)


def _commit() -> str:
    """The commit of this checkout, with a plus where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=7"]
    found = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def _code() -> str:
    """What is the same where the program is the same, whatever else differs in the checkout."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "scan_tf").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:7]


def _record(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _is_done(path: Path) -> bool:
    try:
        return bool(_record(path)["status"] == "done")
    except FileNotFoundError:
        return False  # replaced just now


def _at_work(run: Path) -> str:
    """The stage in which a run is, by its records."""
    running = [p for p in (run / "status").glob("*.json") if not _is_done(p)]
    return max(running, key=os.path.getmtime).stem if running else "between stages"
