"""Run directories of older versions are read, resumed, evaluated and exported.

Only the command line and the files are used, so that these tests outlive the code.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import scan_tf, snapshot, weights

STORED = Path(__file__).parent / "data"
FORMATS = sorted(path.name for path in STORED.glob("run-format-*"))
STAGES = ("pretext", "neighbors", "scan", "selflabel", "evaluate", "export")
# What other processors and thread counts round differently; a step changes hundred times as much.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(params=FORMATS)
def stored(request, tmp_path, monkeypatch):
    """A copy of a stored folder; the paths in it are relative to it."""
    shutil.copytree(STORED / request.param, tmp_path / "stored")
    monkeypatch.chdir(tmp_path / "stored")
    return Path()


def interrupt(stored: Path, stage: str) -> None:
    """Make the run what it was when the stage was interrupted."""
    for later in STAGES[STAGES.index(stage) :]:
        folder = stored / "run" / {"evaluate": "eval"}.get(later, later)
        shutil.rmtree(folder, ignore_errors=True)
        (stored / "run" / "status" / f"{later}.json").unlink(missing_ok=True)
    shutil.copytree(stored / "interrupted" / stage, stored / "run", dirs_exist_ok=True)


def logged(run: Path, stage: str) -> list[dict]:
    lines = (run / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_of_every_format_is_stored():
    assert "run-format-1" in FORMATS


def test_what_is_done_is_not_done_again(stored, capsys):
    before = snapshot(stored / "run")
    for stage in STAGES[:-1]:
        assert scan_tf(stage, "--run-dir", "run") == 0
    assert capsys.readouterr().out.count("done before") == len(STAGES) - 1
    assert snapshot(stored / "run") == before


def test_another_config_is_refused(stored, capsys):
    assert scan_tf("scan", "--run-dir", "run", "scan.entropy_weight=4") == 2
    assert "scan.entropy_weight is 5.0 there, 4.0 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stage",
    ["scan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pretext", "selflabel"))],
)
def test_an_interrupted_stage_goes_on_from_its_checkpoint(stored, stage, eager):
    run, finished = stored / "run", weights(stored / "run", stage)
    rows = logged(run, stage)
    interrupt(stored, stage)
    begun = logged(run, stage)
    assert 0 < len(begun) < len(rows)
    with np.load(run / stage / "ckpt" / "state.npz") as file:
        assert len(file.files) > len(finished)
    assert scan_tf(stage, "--run-dir", "run") == 0
    assert logged(run, stage)[: len(begun)] == begun  # it did not begin again
    for ours, theirs in zip(logged(run, stage), rows, strict=True):
        known = {name: ours[name] for name in theirs}  # there are more by now
        assert known == pytest.approx(theirs, rel=1e-2, abs=1e-3)
    resumed = weights(run, stage)
    assert resumed.keys() == finished.keys()
    for name, values in finished.items():
        np.testing.assert_allclose(resumed[name], values, err_msg=name, **TOLERANCE)


@pytest.mark.slow
def test_an_interrupted_stage_is_finished_with_what_it_has_learnt(stored, capsys):
    run = stored / "run"
    interrupt(stored, "selflabel")
    begun = logged(run, "selflabel")
    assert scan_tf("status", run) == 0
    assert "selflabel  interrupted" in capsys.readouterr().out
    assert scan_tf("run", "--run-dir", "run", "--finish") == 0
    assert logged(run, "selflabel") == begun
    record = json.loads((run / "status" / "selflabel.json").read_text(encoding="utf-8"))
    assert 0 < record["result"]["finished_at_step"] < 100
    assert (run / "export" / "saved_model.pb").exists()
    assert scan_tf("run", "--run-dir", "run", "--finish") == 2
    assert "--finish: no stage was interrupted while it trained" in capsys.readouterr().err


def test_neighbours_are_mined_again(stored):
    run = stored / "run"
    with np.load(run / "neighbors" / "train.npz") as file:
        before = {name: file[name] for name in ("indices", "similarity")}
    assert scan_tf("neighbors", "--run-dir", "run", "--redo", "neighbors") == 0
    with np.load(run / "neighbors" / "train.npz") as file:
        assert (file["indices"] == before["indices"]).mean() > 0.9
        np.testing.assert_allclose(file["similarity"], before["similarity"], atol=1e-4)


def test_it_is_evaluated_exported_and_predicts(stored):
    run = stored / "run"
    before = json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))
    with np.load(run / "eval" / "assignments.npz") as file:
        assigned = {name: file[name] for name in file.files if name != "manifest"}
    assert scan_tf("run", "--run-dir", "run", "--redo", "evaluate") == 0

    assert "images: 3 clusters" in (run / "eval" / "report.html").read_text(encoding="utf-8")
    after = json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))
    assert after.keys() >= before.keys()
    assert after["pretext"]["knn_acc"] == pytest.approx(before["pretext"]["knn_acc"], abs=0.12)
    for stage in ("scan", "selflabel"):
        assert after[stage].keys() >= before[stage].keys()
        same = ("acc", "nmi", "mean_confidence", "confident_last", "epoch", "head")
        for name in (n for n in same if n in before[stage]):
            assert after[stage][name] == pytest.approx(before[stage][name], abs=1e-3), name
    with np.load(run / "eval" / "assignments.npz") as file:
        for name, values in assigned.items():
            np.testing.assert_allclose(file[name], values, atol=1e-3, err_msg=name)

    output = stored / "predicted.csv"
    assert scan_tf("predict", "run", "images/test", "--output", output) == 0
    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    # Files are listed in their order, which is that of the set.
    assert [int(row["cluster"]) for row in rows] == assigned["selflabel_cluster"].tolist()
    confidence = [float(row["confidence"]) for row in rows]
    np.testing.assert_allclose(confidence, assigned["selflabel_confidence"], atol=1e-3)
