"""Kill a tiny run at random moments, damage it and fill its disk: nothing may be lost or wrong.

Kills come at seeded random moments over all stages; the same command goes on until the run is done,
and then its weights, neighbours, metrics and report have to be those of a run that was never
stopped, bit for bit. Faults are a flipped bit in every file, a file system without room, a second
writer, a directory that cannot be written, and a clock that was set back.

Example:
    python scripts/torture.py --kills 100 --seed 0
    python scripts/torture.py --kills 10 --pretexts simclr moco byol --faults
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TRAINED = ("pretext", "scan", "selflabel")
# Seconds within which a program has to end after a signal that it can handle.
PATIENCE_S = 35.0
# The program of this checkout, wherever the script is started.
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
_CONFIG: dict[str, Any] = {
    "name": "tiny",
    "model": {"backbone": "resnet10", "width": 4, "projection_dim": 8},
    "augment": {"crop_scale": [0.6, 1.0], "weak_padding": 1, "cutout": 2},
    "pretext": {"name": "simclr", "epochs": 30, "batch_size": 16},
    "neighbors": {"k": 3, "k_validation": 2, "index": "annoy", "n_trees": 5},
    "scan": {"epochs": 20, "batch_size": 16, "num_heads": 2, "optimizer": {"lr": 1e-3}},
    "selflabel": {"epochs": 20, "batch_size": 16, "threshold": 0.35},
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


class Torture:
    """What was tried and what came of it.

    Args:
        folder: where runs and logs go.
        seed: of the moments and the signals.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)  # noqa: S311 - no secret
        self.tried: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0

    def check(self, fault: str, good: bool, what: str) -> None:
        """Count a try; note what is wrong."""
        self.tried[fault] += 1
        if not good:
            self.wrong.append(f"{fault}: {what}")
            print(f"WRONG: {fault}: {what}", flush=True)

    def start(
        self, run: Path, *arguments: str, limit: int | None = None
    ) -> subprocess.Popen[bytes]:
        """The program at work in a run directory; `limit`: bytes that a file may have."""

        def restrict() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = [sys.executable, "-m", "scan_tf.cli", *(arguments or ("run",))]
        with open(run.with_suffix(".log"), "wb") as log:
            return subprocess.Popen(
                [*command, "--run-dir", str(run)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                preexec_fn=restrict,
            )

    def log(self, run: Path) -> str:
        """What the program said last."""
        return run.with_suffix(".log").read_text(errors="replace")

    def new(self, name: str, pretext: str, epochs: int) -> Path:
        """A run directory of which nothing is made yet."""
        run = self.folder / name
        run.mkdir()
        tree = _CONFIG | {"data": {"name": "folder", "image_size": 8}}
        tree["data"]["path"] = str(_images(self.folder / "images"))
        for stage in TRAINED:
            tree[stage] = tree[stage] | {"epochs": epochs}
        tree["pretext"] = tree["pretext"] | {"name": pretext}
        # JSON is YAML.
        (run / "config.yaml").write_text(json.dumps(tree), encoding="utf-8")
        return run

    def reference(self, pretext: str, epochs: int) -> tuple[Path, float]:
        """A run that is never stopped, and the seconds it took."""
        run, start = self.new(f"{pretext}-whole", pretext, epochs), time.monotonic()
        if self.start(run).wait():
            raise SystemExit(f"the run without faults failed:\n{self.log(run)}")
        return run, time.monotonic() - start

    def kills(self, whole: Path, seconds: float, count: int, pretext: str, epochs: int) -> None:
        """Stop runs at `count` random moments; compare each that gets to its end."""
        stopped = number = 0
        while stopped < count:
            run = self.new(f"{pretext}-{number}", pretext, epochs)
            number += 1
            while True:
                process = self.start(run)
                kind = self.random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
                if stopped >= count:
                    process.wait()
                else:
                    _wait(process, self.random.uniform(0, seconds))
                if process.poll() is None:
                    stopped += 1
                    self.stop(process, run, kind)
                    continue
                code = process.returncode
                self.check("run to its end", code == 0, f"exit code {code}: {self.log(run)}")
                break
            if process.returncode == 0:
                self.compare(whole, run)
            shutil.rmtree(run)

    def stop(self, process: subprocess.Popen[bytes], run: Path, kind: signal.Signals) -> None:
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
        text = self.log(run)
        good_text = code == -kind or "Traceback" not in text
        what = f"ended with {code} after {took:.1f} s: {text[-2000:]}"
        self.check(kind.name, (code in good and good_text) or code == 0, what)

    def compare(self, whole: Path, run: Path) -> None:
        """The results of two runs, bit for bit."""
        for name, read in _RESULTS.items():
            same = _equal(read(whole / name), read(run / name))
            self.check("compared with the run without faults", same, f"{run}: {name} differs")
        left = [p for p in run.rglob(".*") if p.suffix in (".tmp", ".old")]
        self.check("compared with the run without faults", not left, f"left over: {left}")

    def damage(self, whole: Path) -> None:
        """Flip a bit of every file of a finished run; the report stays the same or is refused."""
        files = [p for p in sorted(whole.rglob("*")) if p.is_file() and p.name != ".lock"]
        for file in files:
            name = file.relative_to(whole)
            run = self.folder / "damaged"
            shutil.copytree(whole, run)
            content = bytearray(file.read_bytes())
            if not content:
                shutil.rmtree(run)
                continue
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            (run / name).unlink()
            (run / name).write_bytes(content)
            code = self.start(run, "run", "--redo", "evaluate").wait()
            text = self.log(run)
            same = code == 0 and _equal(_report(whole / _REPORT), _report(run / _REPORT))
            told = code in (2, 3) and "Traceback" not in text and "scan-tf: " in text
            self.check("flipped bit", same or told, f"{name}: exit code {code}: {text[-2000:]}")
            shutil.rmtree(run)

    def full_disk(self, whole: Path, pretext: str, epochs: int) -> None:
        """Let no file grow beyond a size, as on a disk that is full; then go on with room."""
        run = self.new("full", pretext, epochs)
        for limit in (500, 5_000, 50_000, 200_000):
            code = self.start(run, limit=limit).wait()
            text = self.log(run)
            good = code in (0, 2) and "Traceback" not in text
            self.check("no room", good, f"files of {limit} bytes: {code}: {text[-2000:]}")
        code = self.start(run).wait()
        self.check("goes on with room", code == 0, self.log(run)[-2000:])
        if code == 0:
            self.compare(whole, run)

    def two_writers(self, whole: Path, pretext: str, epochs: int) -> None:
        """Start a second program in a run directory in which one is at work."""
        run = self.new("two", pretext, epochs)
        first = self.start(run)
        while first.poll() is None and not (run / "status" / "pretext.json").exists():
            time.sleep(0.05)
        second = subprocess.run(
            [sys.executable, "-m", "scan_tf.cli", "run", "--run-dir", str(run)],
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        named = f"process {first.pid} on " in second.stderr
        what = f"exit code {second.returncode}: {second.stderr}"
        self.check("second writer", second.returncode == 2 and named, what)
        self.check("second writer", first.wait() == 0, f"the first: {self.log(run)[-2000:]}")
        self.compare(whole, run)

    def clock(self, whole: Path, pretext: str, epochs: int) -> None:
        """Stop a run, and give its files times to come, as when the clock is set back."""
        run = self.new("clock", pretext, epochs)
        process = self.start(run)
        while process.poll() is None and not (run / "scan" / "ckpt" / "state.npz").exists():
            time.sleep(0.05)
        self.stop(process, run, signal.SIGTERM)
        later = time.time() + 10 * 365 * 86400
        for path in run.rglob("*"):
            os.utime(path, (later, later))
        code = self.start(run).wait()
        self.check("clock set back", code == 0, self.log(run)[-2000:])
        self.compare(whole, run)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _images(folder: Path) -> Path:
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


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name not in ("manifest", "seconds")}


def _metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _report(path: Path) -> dict[str, Any]:
    report = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in report.items() if key != "wall_time_s"}


def _equal(one: Any, other: Any) -> bool:
    import numpy as np

    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


_REPORT = "eval/report.json"
_RESULTS: dict[str, Callable[[Path], Any]] = {
    **{f"{stage}/weights.npz": _arrays for stage in TRAINED},
    **{f"{stage}/metrics.jsonl": _metrics for stage in TRAINED},
    "neighbors/train.npz": _arrays,
    _REPORT: _report,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where nothing was lost or wrong, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20, help="of each stage (default: 20)")
    parser.add_argument("--pretexts", nargs="+", default=["simclr"], metavar="NAME")
    parser.add_argument("--faults", action="store_true", help="try the other faults too")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="scan_tf-torture-") as folder:
        torture = Torture(Path(folder), arguments.seed)
        for number, pretext in enumerate(arguments.pretexts):
            whole, seconds = torture.reference(pretext, arguments.epochs)
            print(f"{pretext}: {seconds:.0f} s without faults", flush=True)
            share = arguments.kills // len(arguments.pretexts)
            torture.kills(whole, seconds, share, pretext, arguments.epochs)
            if arguments.faults and number == 0:
                for fault in (torture.full_disk, torture.two_writers, torture.clock):
                    fault(whole, pretext, arguments.epochs)
                torture.damage(whole)
    for name, count in torture.tried.items():
        wrong = sum(text.startswith(f"{name}: ") for text in torture.wrong)
        print(f"{name}: tried {count} times, {wrong} wrong")
    print(f"the slowest end after a signal: {torture.slowest:.1f} s")
    return int(bool(torture.wrong))


if __name__ == "__main__":
    sys.exit(main())
