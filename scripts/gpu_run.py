r"""An experiment on a GPU that is lent for minutes: check, pilot, run, pack under one time limit.

Every part is made of `scan-tf` commands in processes of their own. A part that reaches its limit is
sent SIGTERM, on which the program saves; what is worth keeping is copied to --out after every part.
The same command goes on: parts that are done are skipped, others continue where they stopped.

    check   the digits, an epoch of every stage in float32 without XLA, here and on the CPU: the
            losses agree
    pilot   the pretext for --pilot-epochs epochs with each of --arms, scored by kNN
    run     all stages, with the settings of the best arm (or of --arm), until the time is over
    pack    the run directory, to go on elsewhere: `scan-tf unpack OUT/pack RUN_DIR`

Example:
    python scripts/gpu_run.py --config cifar10_simclr_gpu --work WORK --out OUT --minutes 9.5 \
        --arm t05 --parts check run pack data.path=DIR
    python scripts/gpu_run.py --work WORK --out OUT --minutes 9.5 --parts pilot data.path=DIR
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

# What public recipes for a few hundred epochs differ in from SCAN's own settings.
ARMS: dict[str, list[str]] = {
    "scan": [],
    "t05": ["pretext.temperature=0.5"],
    "t05_fast": [
        "pretext.temperature=0.5",
        "pretext.optimizer.lr=0.12",
        "pretext.optimizer.l2=5e-4",
        "augment.grayscale_probability=0.1",
    ],
    "dcl": ["pretext.loss=dcl"],
    "byol": ["pretext.name=byol"],
}
PARTS = ("check", "pilot", "run", "pack")
TINY = [
    *("pretext.epochs=1", "scan.epochs=1", "selflabel.epochs=1", "selflabel.threshold=0.1"),
    *("runtime.dtype=float32", "runtime.jit_compile=never", "runtime.log_every=1"),
    *("evaluate.pictures=false", "selflabel.guard=none", "runtime.progress=false"),
]
STAGES = ("pretext", "scan", "selflabel")
SAVE_S = 25  # between SIGTERM and SIGKILL
RESERVE_S = 30  # for the pack


class Parts:
    """Runs commands until the time is over, and keeps a journal of what was done."""

    def __init__(self, arguments: argparse.Namespace):
        self.work, self.out = arguments.work, arguments.out
        self.end = time.monotonic() + 60 * arguments.minutes
        self.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def scan_tf(
        self, *words: str, limit_s: float | None = None, also: Mapping[str, str] = {}
    ) -> int:
        """Run a command of scan-tf, with variables of the environment.

        Returns:
            Its exit code; 143 where the limit stopped it.
        """
        limit = min(self.left(), limit_s or self.left()) - SAVE_S
        if limit <= 0:
            return 143
        command = [sys.executable, "-m", "scan_tf.cli", *words]
        print(f"\n$ scan-tf {' '.join(words)}    ({self.left():.0f} s left)", flush=True)
        begun = time.monotonic()
        process = subprocess.Popen(command, env=os.environ | dict(also))
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(timeout=SAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        row = {"command": list(words), "code": code, "s": round(time.monotonic() - begun, 1)}
        with open(self.out / "parts.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return code


def check(parts: Parts, arguments: argparse.Namespace) -> bool:
    """Whether the digits' losses are the same here and on the CPU, to 1e-3, stage by stage."""
    for where in ("cpu", "here"):
        run = parts.work / "check" / where
        how = ("run", "--config", "digits_simclr", "--run-dir", str(run), *TINY)
        also = {"NVIDIA_TF32_OVERRIDE": "0"}  # the tolerance is for float32
        also |= {"CUDA_VISIBLE_DEVICES": ""} if where == "cpu" else {}
        if code := parts.scan_tf(*how, also=also):
            print(f"check: ended with {code}")
            return False
    report = {}
    for stage in STAGES:
        first = [
            _rows(parts.work / "check" / where / stage / "metrics.jsonl")[0]["loss"]
            for where in ("cpu", "here")
        ]
        report[stage] = {"cpu": first[0], "here": first[1]}
    _keep(parts.out / "check.json", report)
    print(json.dumps(report, indent=2))
    # The first step of a stage follows the whole stage before it, of which rounding is left.
    return all(abs(r["cpu"] - r["here"]) <= 1e-3 * abs(r["cpu"]) for r in report.values())


def pilot(parts: Parts, arguments: argparse.Namespace) -> bool:
    """Train the pretext with each arm; the table of their kNN accuracies is pilot.json."""
    found = _read(parts.out / "pilot.json")
    for number, arm in enumerate(arguments.arms):
        if "knn_acc" in found.get(arm, {}):
            continue
        run = parts.work / "pilot" / arm
        share = (parts.left() - SAVE_S) / (len(arguments.arms) - number)
        epochs = arguments.pilot_epochs
        settings = [f"pretext.epochs={epochs}", f"pretext.knn_every={epochs}"]
        code = parts.scan_tf(
            *("pretext", "--config", arguments.config, "--run-dir", str(run)),
            *(*ARMS[arm], *settings, *arguments.overrides),
            limit_s=share if number + 1 < len(arguments.arms) else None,
        )
        rows = _rows(run / "pretext" / "metrics.jsonl")
        last = rows[-1] if rows else {}
        found[arm] = {k: v for k, v in last.items() if k.startswith(("knn", "loss", "epoch"))}
        found[arm]["code"] = code
        _keep(parts.out / "pilot.json", found)
    for arm, row in sorted(found.items(), key=lambda item: -item[1].get("knn_acc", 0)):
        print(f"{arm:10}{row}")
    return all("knn_acc" in found.get(arm, {}) for arm in arguments.arms)


def run(parts: Parts, arguments: argparse.Namespace) -> bool:
    """All stages with the best arm's settings; reports and curves are kept also of a part."""
    arm = arguments.arm or _best(parts.out / "pilot.json")
    root = parts.work / "run"
    code = parts.scan_tf(
        *("run", "--config", arguments.config, "--run-dir", str(root)),
        *(*ARMS[arm], *arguments.overrides),
        limit_s=parts.left() - RESERVE_S if "pack" in arguments.parts else None,
    )
    for path in [*root.glob("*/metrics.jsonl"), *root.glob("eval/report.*")]:
        target = parts.out / "run" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return code in (0, 4)


def pack(parts: Parts, arguments: argparse.Namespace) -> bool:
    """The run directory in parts of 15 MiB."""
    return not parts.scan_tf("pack", str(parts.work / "run"), str(parts.out / "pack"))


def main(words: list[str] | None = None) -> int:
    """Exit code 0: all parts are done; 75: the same command goes on; 1: a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="cifar10_simclr_gpu")
    parser.add_argument("--work", type=Path, required=True, help="run directories")
    parser.add_argument("--out", type=Path, required=True, help="what is to be brought back")
    parser.add_argument("--minutes", type=float, required=True, help="of wall-clock time in all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=list(ARMS))
    parser.add_argument("--arm", choices=[*ARMS], help="of the run (default: the pilot's best)")
    parser.add_argument("--pilot-epochs", type=int, default=45)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    words = sys.argv[1:] if words is None else words
    # Behind --parts and --arms, which take several words, argparse would take them for such.
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    arguments = parser.parse_args([word for word in words if word not in settings])
    arguments.overrides += settings
    parts = Parts(arguments)
    for part in (part for part in PARTS if part in arguments.parts):
        done = {"check": check, "pilot": pilot, "run": run, "pack": pack}[part](parts, arguments)
        print(f"{part}: {'done' if done else 'not done'}, {parts.left():.0f} s left", flush=True)
        if not done and part == "check" and parts.left() > SAVE_S:
            return 1
        if not done and part == "pilot":
            return 75
    return 0 if done else 75


def _best(path: Path) -> str:
    found = _read(path)
    if not found:
        sys.exit(f"{path}: missing. Give the settings of the run by --arm, or run the part pilot.")
    return max(found, key=lambda arm: found[arm].get("knn_acc", 0))


def _rows(path: Path) -> list[dict[str, float]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _read(path: Path) -> dict[str, dict[str, float]]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _keep(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
