from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import copy, opened, own_handler, weights

from scan_tf.errors import ConfigError, Interrupted, StageError
from scan_tf.experiments import packs, sessions
from scan_tf.pipeline import stages
from scan_tf.storage import files
from scan_tf.storage.files import read_metrics
from scan_tf.training import checkpoint

SCRIPT = Path(__file__).parents[1] / "scripts" / "campaign.py"
BUDGET_S, MARGIN_S = 1e6, 4e5
TRAINED = ("pretext", "scan", "selflabel")
# Something stands in for the stages and waits to be stopped.
WAITING = threading.Event()


def lines_of(run: Path) -> list[dict]:
    return read_metrics(run / "sessions.jsonl")


def rows(run: Path, stage: str) -> list[dict]:
    return read_metrics(run / stage / "metrics.jsonl")


def step_of(run: Path, stage: str) -> int:
    return files.read_npz(run / stage / "ckpt" / "state.npz")[1]["step"]


def assert_same_weights(one: Path, other: Path, *names: str) -> None:
    for stage in names:
        ours, theirs = weights(one, stage), weights(other, stage)
        assert ours.keys() == theirs.keys()
        for key, values in theirs.items():
            np.testing.assert_array_equal(ours[key], values, err_msg=f"{stage}: {key}")


@pytest.fixture
def session(monkeypatch) -> Iterator[Callable[..., bool]]:
    """Runs a session whose time is up as soon as `until` holds."""

    def run(work, until: Callable[[], bool] = lambda: False, **options) -> bool:
        def monotonic() -> float:
            return time.monotonic() + (BUDGET_S - MARGIN_S if until() else 0)

        monkeypatch.setattr(sessions, "time", types.SimpleNamespace(monotonic=monotonic))
        monkeypatch.setattr(sessions, "_POLL_S", 0.01)
        with own_handler():
            return sessions.run(work, budget_s=BUDGET_S, margin_s=MARGIN_S, **options)

    yield run
    # A signal may come between the opening of a file and the block that would close it. What it
    # leaves open is collected here, and not in another test, which would be blamed for it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.slow
def test_a_session_stops_in_time_and_the_next_ends_with_the_same_bits(
    finished, tmp_path, session, capsys
):
    run = copy(finished, tmp_path / "run", without="selflabel")
    total = rows(finished, "selflabel")[-1]["step"]
    assert not session(opened(run), lambda: len(rows(run, "selflabel")) > 3)
    step = step_of(run, "selflabel")
    # Every second step is logged, and any can be the last one saved.
    logged = rows(run, "selflabel")[-1]["step"]
    assert 3 < step < total
    assert step - 2 < logged <= step
    assert f"selflabel step {step} of {total} (" in capsys.readouterr().out
    # Left behind on a journey, and needed by the evaluation.
    features = (run / "neighbors" / "features.npz").rename(tmp_path / "features.npz")

    assert session(opened(run))
    assert_same_weights(run, finished, *TRAINED)
    assert rows(run, "selflabel") == rows(finished, "selflabel")
    with np.load(run / "neighbors" / "features.npz") as file, np.load(features) as before:
        for split in ("train", "test"):
            np.testing.assert_array_equal(file[split], before[split])
    assert [row["ended"] for row in lines_of(run)] == ["budget", "done"]
    assert lines_of(run)[0]["steps"]["selflabel"][0] == 0
    assert lines_of(run)[0]["steps"]["selflabel"][1] <= step
    assert lines_of(run)[1]["steps"]["selflabel"] == [logged, total]
    assert session(opened(run))
    assert "export: done before" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_travelled_ends_with_the_same_bits(finished, tmp_path, session, monkeypatch):
    run = copy(finished, tmp_path / "run", without="scan")
    assert not session(opened(run), lambda: len(rows(run, "scan")) > 3)
    packs.pack(run, tmp_path / "pack")
    packs.unpack([tmp_path / "pack"], there := tmp_path / "there")
    assert [row["ended"] for row in lines_of(there)] == ["budget"]
    monkeypatch.setattr(stages, "run_all", lambda work: stages.run_stage(work, "scan"))
    assert session(opened(there))
    assert_same_weights(there, finished, "pretext", "scan")


def wait_for_the_signal(work) -> None:
    WAITING.set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.01)
    pytest.fail("the signal did not come")


def test_a_stage_that_takes_the_signal_for_damage_is_understood(
    finished, tmp_path, session, monkeypatch
):
    run = copy(finished, tmp_path / "run", without="export")
    WAITING.clear()

    def misled(work) -> None:
        try:
            wait_for_the_signal(work)
        except Exception as error:
            raise StageError("features.npz: damaged") from error

    monkeypatch.setattr(stages, "run_all", misled)
    assert not session(opened(run), WAITING.is_set)


def test_an_error_or_another_signal_is_not_the_budget(finished, tmp_path, session, monkeypatch):
    run = copy(finished, tmp_path / "run", without="export")

    def broken(work) -> None:
        raise StageError("scan: broken")

    monkeypatch.setattr(stages, "run_all", broken)
    with pytest.raises(StageError, match="scan: broken"):
        session(opened(run))

    def terminated(work) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for_the_signal(work)

    monkeypatch.setattr(stages, "run_all", terminated)
    with pytest.raises(Interrupted) as end:
        session(opened(run))
    assert end.value.exit_code == 143
    assert [row["ended"] for row in lines_of(run)] == ["error or signal"] * 2


class Exited(BaseException):
    """In place of the end of the process."""


def test_what_does_not_stop_is_ended(finished, tmp_path, monkeypatch, capsys):
    journal = sessions.Journal(opened(copy(finished, tmp_path / "run")), time.monotonic())
    limit = sessions.TimeLimit(time.monotonic(), 10, meanwhile=journal.look, at_end=journal.write)

    def leave(number: int) -> None:
        raise Exited(number)

    monkeypatch.setattr(sessions.os, "_exit", leave)
    with pytest.raises(Exited) as end:
        limit._watch()
    assert end.value.args == (75,)
    assert "did not stop in time" in capsys.readouterr().err
    assert lines_of(tmp_path / "run")[-1]["ended"] == "killed at the end of the budget"


def test_other_seeds_come_last(finished, tmp_path, session, monkeypatch):
    seen = []
    monkeypatch.setattr(sessions.sweep, "repeat", lambda work, seeds: seen.append(list(seeds)))
    run = copy(finished, tmp_path / "run")
    assert session(opened(run))
    assert session(opened(run), seeds=[0, 1])
    assert seen == [[0, 1]]


@pytest.mark.parametrize("margin_s", [60, 61, -1])
def test_a_budget_within_the_margin_is_refused(finished, margin_s):
    with pytest.raises(ConfigError, match="--stop-after: 1 leave no time .*--margin"):
        sessions.run(opened(finished), budget_s=60, margin_s=margin_s)


def test_the_remaining_minutes_come_from_the_last_measured_rates(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="scan")
    lines = sessions.describe(opened(run)).splitlines()
    assert lines[0].startswith("pretext   done in ")
    assert lines[2] == "scan      not begun, 12 epochs; time not known yet"
    assert lines[-1] == "export    not begun"
    metrics = [{"step": s, "epoch": round(s / 3, 4), "loss": 1.0} for s in (2, 3, 4)]
    (run / "scan").mkdir()
    (run / "scan" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in metrics))
    path = run / "scan" / "ckpt" / "state.npz"
    checkpoint.save_state(path, {"x": np.zeros(3)}, step=4, extra={})
    older, *rates = [{"scan": 9.0}, {"scan": 0.1}, {"selflabel": 2.0}]
    text = "".join(json.dumps({"steps_per_second": r}) + "\n" for r in rates)
    (run / "campaign.jsonl").write_text(json.dumps({"steps_per_second": older}) + "\n")
    assert ", 9 steps/s: " in sessions.describe(opened(run)).splitlines()[2]
    (run / "sessions.jsonl").write_text(text)
    line = sessions.describe(opened(run)).splitlines()[2]
    # 32 steps at 0.1 a second.
    assert line == "scan      step 4 of 36 (11.1%), 0.1 steps/s: about 5.3 min remain"


def test_rates_leave_out_what_was_taken_back(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="scan")
    (run / "scan").mkdir()
    clock = iter(range(10, 100, 10))
    journal = sessions.Journal(opened(run), 0)

    def look(*steps: int) -> None:
        text = "".join(json.dumps({"step": s}) + "\n" for s in steps)
        (run / "scan" / "metrics.jsonl").write_text(text + '{"step": 99')
        journal.look()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
        journal._before["scan"] = 30
        for steps in ((10, 20, 30), (10, 20), (10, 20, 26), (20, 26), (26, 36), (36, 66)):
            look(*steps)
        journal.write("test")
    row = lines_of(run)[-1]
    # 26 at 10 s, 36 at 20 s, 66 at 30 s, and the row itself at 40 s.
    assert row["steps"] == {"scan": [20, 66]}
    assert row["steps_per_second"] == {"scan": 2.0}


def test_a_session_says_where_it_ran(finished, tmp_path, session):
    run = copy(finished, tmp_path / "run")
    assert session(opened(run))
    (row,) = lines_of(run)
    assert row["hardware"].keys() == {"accelerators", "cores", "memory_gib"}
    assert row["hardware"]["cores"] >= 1
    assert row["versions"].keys() >= {"tensorflow", "keras"}
    assert row["device"]["dtype"] == "float32"
    assert row.keys() >= {"begun", "minutes", "ended", "commit", "processor", "command"}


def script(*arguments, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, **options)


def test_the_script_packs_unpacks_and_names_errors(finished, tmp_path):
    run = tmp_path / "run"
    done = script("pack", finished, tmp_path / "pack", "--part-mib", "0.1")
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "pack").glob("*.part"))
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:-1]] == [*map(str, parts)]
    done = script("unpack", *sorted((tmp_path / "pack").iterdir()), run, "--data-path", "/images")
    assert done.returncode == 0, done.stderr
    assert_same_weights(run, finished, *TRAINED)
    assert opened(run).config.data.path == "/images"
    done = script("unpack", tmp_path / "pack", run)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"scan-tf: {run}: exists. Unpack into a new folder."
    done = script("run", "--run-dir", run, "--stop-after", "x")
    assert done.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name
)
@pytest.mark.parametrize("stage", TRAINED)
def test_a_killed_session_goes_on_to_the_same_bits(finished, tmp_path, stage, number):
    run = copy(finished, tmp_path / "run", without=stage)
    command = [sys.executable, str(SCRIPT), "run", "--run-dir", str(run), "--stop-after", "60"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 1200
        while len(rows(run, stage)) < 4 or not (run / stage / "ckpt" / "state.npz").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        process.wait(timeout=600)
    expected = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert process.returncode == expected
    assert step_of(run, stage) < rows(finished, stage)[-1]["step"]
    done = script("run", "--run-dir", run, "--stop-after", "60")
    assert done.returncode == 0, done.stderr
    assert_same_weights(run, finished, *TRAINED)


@pytest.mark.slow
def test_short_sessions_end_with_the_same_bits(finished, tmp_path):
    """Real budgets: with a twentieth of a second between checkpoints, kills lose little."""
    run = copy(finished, tmp_path / "run", without="pretext")
    codes = []
    while not codes or codes[-1] == sessions.TO_BE_CONTINUED:
        minutes = 0.5 + 0.1 * len(codes)  # until it is enough for a slow machine to start in
        begun = time.monotonic()
        options = ("--stop-after", minutes, "--margin", 2)
        done = script("run", "--run-dir", run, *options)
        assert time.monotonic() - begun < 60 * minutes + 30
        codes.append(done.returncode if done.returncode != 2 else sessions.TO_BE_CONTINUED)
        assert len(codes) < 40
    assert codes[-1] == 0, done.stderr
    assert_same_weights(run, finished, *TRAINED)
