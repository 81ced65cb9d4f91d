"""The script of an experiment under one time limit; here on the CPU, and with small settings."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_run.py"
spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
gpu_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_run)


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Stands for scan-tf: writes curves, and ends with the codes that it is given."""
    seen, codes, scores = [], {}, {}

    def scan_tf(parts, *words, **_):
        seen.append(words)
        run = Path(words[words.index("--run-dir") + 1]) if "--run-dir" in words else None
        code = codes.get(words[0] if run is None else run.name, 0)
        if run is not None:
            for stage in gpu_run.STAGES:
                (run / stage).mkdir(parents=True, exist_ok=True)
                row = {"step": 1, "epoch": 1.0, "loss": scores.get((run.name, "loss"), 2.0)}
                row |= {"knn_acc": scores.get(run.name, 0.5)} if not code else {}
                (run / stage / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return code

    monkeypatch.setattr(gpu_run.Parts, "scan_tf", scan_tf)

    def call(*words: str) -> int:
        where = ("--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--minutes", "9")
        return gpu_run.main([*where, *words])

    return call, seen, codes, scores


def test_the_best_arm_goes_on(program, tmp_path):
    call, seen, _, scores = program
    scores |= {"dcl": 0.75, "t05": 0.6}
    assert call("data.path=DIR") == 0
    commands = [words[0] for words in seen]
    assert commands == ["run", "run", *["pretext"] * 5, "run", "pack"]
    assert all("data.path=DIR" in words for words in seen[2:-1])
    assert "pretext.loss=dcl" in seen[-2]
    assert (tmp_path / "out" / "run" / "scan" / "metrics.jsonl").exists()
    pilot = json.loads((tmp_path / "out" / "pilot.json").read_text())
    assert pilot["dcl"]["knn_acc"] == 0.75


def test_what_was_stopped_goes_on_and_what_is_done_is_skipped(program):
    call, seen, codes, _ = program
    codes["t05_fast"] = 143
    assert call("--parts", "pilot", "run", "--arms", "t05", "t05_fast") == 75
    assert [words[0] for words in seen] == ["pretext", "pretext"]
    codes.clear()
    seen.clear()
    assert call("--parts", "pilot", "run", "--arms", "t05", "t05_fast") == 0
    assert [words[0] for words in seen] == ["pretext", "run"]
    assert "pretext.optimizer.lr=0.12" in seen[0]


def test_settings_may_stand_behind_parts_and_arms(program):
    call, seen, *_ = program
    assert call("--arms", "t05", "scan.epochs=3", "--parts", "pilot", "run", "data.path=DIR") == 0
    assert [words[-2:] for words in seen] == [("scan.epochs=3", "data.path=DIR")] * 2


def test_a_check_that_fails_ends_it(program, tmp_path):
    call, seen, _, scores = program
    scores["here", "loss"] = 2.01
    assert call() == 1
    assert len(seen) == 2
    found = json.loads((tmp_path / "out" / "check.json").read_text())
    assert found["scan"] == {"cpu": 2.0, "here": 2.01}


def test_a_run_needs_an_arm(program):
    call, *_ = program
    with pytest.raises(SystemExit, match=r"pilot\.json: missing\. Give .* by --arm"):
        call("--parts", "run")


@pytest.mark.slow
def test_a_dry_run_with_an_interruption(tmp_path):
    small = [*gpu_run.TINY, "pretext.knn_every=1", "model.width=8"]
    command = [sys.executable, str(SCRIPT), "--config", "digits_simclr", "--pilot-epochs", "1"]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]

    def call(minutes: float, *words: str) -> int:
        words = ("--minutes", str(minutes), *words)
        return subprocess.run([*command, *words, *small], timeout=1200).returncode

    assert call(15, "--parts", "check", "pilot", "--arms", "scan", "t05") == 0
    # So little time that the program is told to stop while it starts.
    assert call(0.45, "--parts", "run") == 75
    assert call(15, "--parts", "run", "pack") == 0
    assert (tmp_path / "out" / "run" / "eval" / "report.json").exists()
    assert (tmp_path / "out" / "pack" / "manifest.json").exists()
    lines = (tmp_path / "out" / "parts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    assert 143 in [row["code"] for row in rows]
