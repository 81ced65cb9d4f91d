"""Tiny runs that are stopped, and their comparison with runs that were never stopped."""

from __future__ import annotations

import collections
import fcntl
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture_fork import Forked

ROOT = Path(__file__).resolve().parents[1]
TRAINED = ("pretext", "scan", "selflabel")
REPORT = "eval/report.json"
# Seconds within which a program has to end after a signal that it can handle.
PATIENCE_S = 35.0
# The program of this checkout, wherever the script is started.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
# How many kills of ten come before the program has begun its work.
_EARLY = 1
# In which share of the work that is left the others come: so that a run is killed several times.
_SOON = 0.6
_CONFIG: dict[str, Any] = {
    "name": "tiny",
    "model": {"backbone": "resnet10", "width": 4, "projection_dim": 8},
    "augment": {"crop_scale": [0.6, 1.0], "weak_padding": 1, "cutout": 2},
    "pretext": {"name": "simclr", "batch_size": 16},
    "neighbors": {"k": 3, "k_validation": 2, "index": "annoy", "n_trees": 5},
    # Views that are quickly compiled: half of the time of a run would go into the strong ones.
    "scan": {"batch_size": 16, "num_heads": 2, "optimizer": {"lr": 1e-3}, "augmentation": "weak"},
    "selflabel": {"batch_size": 16, "threshold": 0.35, "augmentation": "weak"},
    "evaluate": {"pictures": False, "kmeans_restarts": 2, "knn_k": 5},
    "runtime": {
        "dtype": "float32",
        "jit_compile": "never",
        "log_every": 2,
        "checkpoint_minutes": 1e-3,
        "progress": False,
        "tensorboard": False,
    },
}
# Settings in which a case differs: each has state of another kind beside the weights.
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "simclr": {},
    "moco": {"pretext": {"name": "moco", "queue_size": 32}},
    "nce": {"pretext": {"name": "nce", "negatives": 8}},
    "byol": {"pretext": {"name": "byol"}, "scan": {"name": "temi"}},
    "feature_decoupling": {
        "pretext": {"name": "feature_decoupling", "negatives": 8},
        "selflabel": {"ema": 0.9},
    },
    "fixmatch": {
        "scan": {"head_epochs": 4},
        "selflabel": {"name": "fixmatch", "confidence": 0.3, "agreement": 0.3},
    },
    "cdc": {"selflabel": {"name": "cdc", "threshold": None}},
}


Program = subprocess.Popen[bytes] | Forked


class OutOfTime(Exception):
    """Nothing new is to be begun."""


class Torture:
    """What was tried and what came of it.

    Args:
        folder: where runs and logs go.
        seed: of the moments and the signals.
        epochs: of each stage.
        minutes: after which nothing new is begun; None: there is no end.
        quick: TensorFlow is loaded once, and steps are not compiled; see `torture_fork`.
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
        self.worker = Worker(quick=quick)
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

    def tell(self, path: Path | None) -> None:
        """Print what was tried, and add it to a file of results."""
        lines = []
        for (fault, where), tried in self.tried.items():
            wrong = [what for name, place, what in self.wrong if (name, place) == (fault, where)]
            print(f"{fault}, {where}: tried {tried} times, {len(wrong)} wrong")
            row = {"fault": fault, "where": where, "commit": self._commit, "seed": self.seed}
            lines.append(json.dumps(row | {"tried": tried, "wrong": wrong}) + "\n")
        print(f"the slowest end after a signal: {self.slowest:.1f} s")
        if path is not None:
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(lines)

    def start(self, log: Path, *arguments: object, limit: int | None = None) -> Program:
        """The program at work, what it says in a file; `limit`: bytes that a file may have."""
        if self.quick and limit is None:
            log.write_bytes(b"")
            return Forked(log, [*map(str, arguments)])

        def restrict() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        with open(log, "wb") as output:
            return subprocess.Popen(
                [*PROGRAM, *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                preexec_fn=restrict,
            )

    def new(self, name: str, case: str) -> Path:
        """A run directory of which nothing is made yet."""
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        tree = {**_CONFIG, "data": {"name": "folder", "image_size": 8}}
        tree["data"]["path"] = str(images(self.folder / "images"))
        for stage in TRAINED:
            changes = {"epochs": self.epochs, **CASES[case].get(stage, {})}
            tree[stage] = {k: v for k, v in {**tree[stage], **changes}.items() if v is not None}
        # JSON is YAML.
        (run / "config.yaml").write_text(json.dumps(tree), encoding="utf-8")
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
        whole, stopped = self.whole(case), 0
        seconds = {p.stem: _record(p)["wall_time_s"] for p in (whole / "status").glob("*.json")}
        while stopped < count:
            name = f"{case}-killed-{self.seed}"
            run, log = self.new(name, case), self.folder / f"{name}.log"
            while True:
                process = self.start(log, "run", "--run-dir", run)
                kind = self.random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
                if stopped < count:
                    self._wait(process, log, run, seconds)
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

    def _wait(self, process: Program, log: Path, run: Path, seconds: dict[str, float]) -> None:
        """Wait for a random moment, mostly of the work that is left."""
        if self.random.randrange(10) < _EARLY:
            wait(process, self.random.uniform(0, 3))
            return
        while process.poll() is None and not log.stat().st_size:
            time.sleep(0.02)
        done = {p.stem for p in (run / "status").glob("*.json") if _is_done(p)}
        left = sum(took for stage, took in seconds.items() if stage not in done)
        wait(process, self.random.uniform(0, _SOON * left))

    def stop(self, process: Program, log: Path, kind: signal.Signals, where: str) -> None:
        """Send a signal, and see the program end as it should."""
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

    def compare(self, whole: Path, run: Path, where: str) -> None:
        """The results of two runs, bit for bit."""
        different = [n for n, read in _RESULTS.items() if not equal(read(whole / n), read(run / n))]
        left = [str(p) for p in run.rglob(".*") if p.suffix in (".tmp", ".old")]
        what = f"differs: {different}; left over: {left}"
        self.check("the same bits as without faults", where, not different and not left, what)


PROGRAM = (sys.executable, "-m", "scan_tf.cli")
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
_EAGER = "import tensorflow as tf\ntf.config.run_functions_eagerly(True)\n"


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


def text_of(log: Path) -> str:
    """The last that the program said."""
    return log.read_text(errors="replace")[-2000:]


def wait(process: Program, seconds: float) -> None:
    """Wait for a program, but no longer than that."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def images(folder: Path) -> Path:
    """Noisy squares of three kinds, for training and for tests."""
    if folder.exists():
        return folder
    import numpy as np
    from PIL import Image

    numbers = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for channel, kind in enumerate(("blue", "green", "red")):
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                pixels = numbers.integers(0, 100, (8, 8, 3))
                pixels[..., channel] += 120
                path = folder / split / kind / f"{number:02d}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def report(path: Path) -> dict[str, Any]:
    """A report, without the times."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key != "wall_time_s"}


def equal(one: Any, other: Any) -> bool:
    """Whether values are the same, to the last bit; two NaN are."""
    import numpy as np

    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


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


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name not in ("manifest", "seconds")}


def _metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


_RESULTS: dict[str, Callable[[Path], Any]] = {
    **{f"{stage}/weights.npz": _arrays for stage in TRAINED},
    **{f"{stage}/metrics.jsonl": _metrics for stage in TRAINED},
    "neighbors/train.npz": _arrays,
    "neighbors/features.npz": _arrays,
    "eval/embeddings.npz": _arrays,
    "eval/assignments.csv": Path.read_bytes,
    "export/variables/variables.data-00000-of-00001": Path.read_bytes,
    REPORT: report,
}
