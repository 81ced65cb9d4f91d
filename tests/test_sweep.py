from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import statistics
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_runs import copy, opened, scan_tf, snapshot, weights, write_config, write_images

from scan_tf.errors import TrainingError
from scan_tf.experiments import sweep, tables
from scan_tf.pipeline import evaluate, stages
from scan_tf.training.loop import Trainer

# Heads on features that are computed once: the fastest clustering there is.
# Heads that learn so fast are sure of something after so few epochs.
FAST = ("scan.freeze_backbone=true", "scan.cached_views=1", "scan.epochs=3")
FAST += ("scan.optimizer.lr=0.1", "selflabel.epochs=1")
# Two axes, one of them of self-label alone.
AXES = ("scan.entropy_weight=1,5", "selflabel.threshold=0.4,0.7")
SWEEP = (*AXES, *FAST, "--seeds", "0", "--name", "both")
POINTS = [
    (f"scan.entropy_weight={weight}+selflabel.threshold={threshold}", 0)
    for weight in ("1", "5")
    for threshold in ("0.4", "0.7")
]

pytestmark = pytest.mark.usefixtures("eager")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def timeless(folder: Path) -> list[dict[str, str]]:
    return [row | {"wall_time_s": ""} for row in rows(folder)]


def report(run: Path) -> dict:
    return json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))


def cells(folder: Path) -> list[list[str]]:
    """The table of table.md without its header."""
    lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    return [[c.strip() for c in x.strip("|").split("|")] for x in lines if x.startswith("|")][2:]


@pytest.fixture
def no_training(monkeypatch):
    """Fails the test when a stage is computed."""

    def refuse(work, stage):
        pytest.fail(f"{stage} of {work} was run")

    monkeypatch.setattr(stages, "run_stage", refuse)


@pytest.fixture(scope="module")
def swept(finished, tmp_path_factory) -> Path:
    """A copy of the finished run with the sweep SWEEP."""
    run = copy(finished, tmp_path_factory.mktemp("swept") / "run")
    tf.config.run_functions_eagerly(True)
    assert scan_tf("sweep", "--run-dir", run, *SWEEP) == 0
    return run


def test_every_point_and_seed_is_a_run_of_its_own(swept):
    folder = swept / "sweeps" / "both"
    for point, seed in POINTS:
        work = opened(folder / point / f"seed-{seed}")
        assert all(work.is_done(s) for s in ("pretext", "neighbors", "scan", "selflabel"))
        settings = dict(text.split("=") for text in point.split("+"))
        assert work.config.scan.entropy_weight == float(settings["scan.entropy_weight"])
        assert work.config.selflabel.threshold == float(settings["selflabel.threshold"])
        assert (work.config.clustering_seed, work.config.scan.epochs) == (seed, 3)
    assert not [*folder.rglob("ckpt")]
    assert not [p for p in folder.rglob("*.png") if p != folder / "sweep.png"]


def test_what_is_equal_is_computed_once(swept):
    runs = {(p, s): swept / "sweeps" / "both" / p / f"seed-{s}" for p, s in POINTS}
    for name in ("pretext/weights.npz", "neighbors/train.npz"):
        assert all(os.path.samefile(swept / name, run / name) for run in runs.values())
    owners = {(run / "scan" / "weights.npz").stat().st_ino for run in runs.values()}
    assert len(owners) == 2  # of four: the threshold is nothing to SCAN
    for (point, seed), run in runs.items():
        other = runs[point.replace("=0.7", "=0.4"), seed]
        assert os.path.samefile(run / "scan" / "weights.npz", other / "scan" / "weights.npz")
    heads = [weights(runs[POINTS[i]], "scan")["heads/0/kernel"] for i in (0, 2)]
    assert not np.array_equal(*heads)


def test_the_csv_has_the_numbers_of_the_reports(swept):
    folder = swept / "sweeps" / "both"
    table = rows(folder)
    keys = ("scan.entropy_weight", "selflabel.threshold")
    where = [("+".join(f"{k}={row[k]}" for k in keys), int(row["seed"])) for row in table]
    assert where == POINTS
    for (point, seed), row in zip(POINTS, table, strict=True):
        written = report(folder / point / f"seed-{seed}")
        for stage in ("scan", "selflabel"):
            for key in tables.MEASURES:
                assert float(row[f"{stage}_{key}"]) == written[stage][key]
        assert float(row["num_clusters"]) == 3
        assert row["error"] == ""
        trained = sum(written["wall_time_s"][s] for s in ("scan", "selflabel"))
        assert float(row["wall_time_s"]) == pytest.approx(trained, abs=0.02)
    # There is something to tell apart.
    assert len({row["selflabel_mean_confidence"] for row in table}) > 2


def test_the_table_has_a_row_for_each_point(swept):
    folder = swept / "sweeps" / "both"
    points = cells(folder)
    assert [tuple(line[:3]) for line in points] == [
        (weight, threshold, "1") for weight in ("1", "5") for threshold in ("0.4", "0.7")
    ]
    for row, point in zip(rows(folder), points, strict=True):
        assert point[3] == f"{100 * float(row['scan_acc']):.1f}"
    assert "k-means on pretext features: ACC " in (folder / "table.md").read_text(encoding="utf-8")
    with Image.open(folder / "sweep.png") as image:
        assert min(image.size) > 300


@pytest.mark.usefixtures("no_training")
def test_a_second_call_trains_nothing(swept, tmp_path, capsys):
    run = copy(swept, tmp_path / "run")
    before = snapshot(run)
    assert scan_tf("sweep", "--run-dir", run, *SWEEP) == 0
    out = capsys.readouterr().out
    assert out.count("done before; skipped") == 4
    assert "[4/4] scan.entropy_weight=5 selflabel.threshold=0.7 seed 0: done before" in out
    assert timeless(run / "sweeps" / "both") == timeless(swept / "sweeps" / "both")
    changed = {name for name, state in snapshot(run).items() if before.get(name) != state}
    assert changed == {f"sweeps/both/{name}" for name in ("table.csv", "table.md", "sweep.png")}


@pytest.mark.slow
def test_an_interrupted_sweep_ends_with_the_same_table(swept, tmp_path, monkeypatch, capsys):
    run = copy(swept, tmp_path / "run")
    folder = run / "sweeps" / "both"
    # The third point will be stopped while it clusters; before it the second trains self-label.
    for point, seed in POINTS[1:4]:
        shutil.rmtree(folder / point / f"seed-{seed}")
    updates = []

    def update(trainer, inputs):
        updates.append(trainer)
        if len(updates) == 5:
            signal.raise_signal(signal.SIGINT)
        return once_more(trainer, inputs)

    with monkeypatch.context() as patch:
        once_more = Trainer.update
        patch.setattr(Trainer, "update", update)
        assert scan_tf("sweep", "--run-dir", run, *SWEEP) == 130
    assert "to go on" in capsys.readouterr().err
    assert len(updates) == 6  # the call that the signal came in ends first
    third = opened(folder / POINTS[2][0] / "seed-0")
    assert third.record("scan").status == "interrupted"
    assert (third.folder("scan") / "ckpt" / "state.npz").exists()

    assert scan_tf("sweep", "--run-dir", run, *SWEEP) == 0
    out = capsys.readouterr().out
    assert re.search(r"\[4/4\] .* seed 0; about \d+ (s|min) left\n", out)
    assert timeless(folder) == timeless(swept / "sweeps" / "both")
    for point, seed in POINTS[1:4]:
        place = Path("sweeps", "both", point, f"seed-{seed}")
        for stage in ("scan", "selflabel"):
            for name, values in weights(swept / place, stage).items():
                np.testing.assert_array_equal(weights(run / place, stage)[name], values)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("model.width=4,8",), ("model.width", "share one pretext")),
        (("pretext.epochs=1,2", "scan.epochs=1,2"), ("pretext.epochs", "share one pretext")),
        (("seed=0,1",), ("seed", "--seeds")),
        (("scan.epochs=1,2", "seed=1"), ("seed is 0 there, 1 here",)),
        (("scan.epochs=1,2", "data.image_size=12"), ("data.image_size is 8 there, 12 here",)),
        (("scan.epochs=1,2", "clustering_seed=1"), ("clustering_seed", "--seeds")),
        (("scan.epoch=1,2",), ("unknown key 'scan.epoch'", "'epochs'")),
        (("scan.epochs=1,0",), ("scan.epochs", "at least 1")),
        (("scan.epochs=5",), ("no setting has several values", "evaluate --seeds")),
        (("scan.epochs=1,2", "--name", "../x"), ("--name", "'../x'")),
        (("scan.epochs=1,2", "evaluate.split=none"), ("evaluate.split", "'none'")),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_done(swept, arguments, parts, capsys):
    before = snapshot(swept)
    assert scan_tf("sweep", "--run-dir", swept, *arguments) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error
    assert snapshot(swept) == before


@pytest.mark.usefixtures("no_training")
def test_a_sweep_of_the_same_name_with_other_settings_is_refused(swept, capsys):
    before = snapshot(swept)
    other = (*AXES, "selflabel.epochs=2", *FAST[:-1], "--name", "both")
    assert scan_tf("sweep", "--run-dir", swept, *other) == 2
    error = capsys.readouterr().err
    assert f"{swept / 'sweeps' / 'both'} holds results of other settings" in error
    assert "selflabel.epochs is 1 there, 2 here" in error
    assert "--name" in error
    assert snapshot(swept) == before


@pytest.mark.slow
def test_a_point_that_fails_is_told_and_the_others_go_on(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    before = snapshot(run)
    # Nothing is ever more confident than 1.
    command = ("sweep", "--run-dir", run, "selflabel.threshold=1,0.4", "selflabel.epochs=1")
    for _ in range(2):  # nor does trying again help
        assert scan_tf(*command) == 2
        streams = capsys.readouterr()
        assert "1 of 2 points failed" in streams.err
        assert "no image was ever more confident than 1.0" in streams.err
        assert "failed: selflabel.threshold=1 seed 0: " in streams.out
        folder = run / "sweeps" / "selflabel.threshold"
        failed, done = rows(folder)
        assert "no image was ever more confident" in failed["error"]
        assert (failed["selflabel_acc"], done["error"]) == ("", "")
        # SCAN was scored all the same, as the parent left it.
        for row in (failed, done):
            assert float(row["scan_acc"]) == report(finished)["scan"]["acc"]
        assert 0 <= float(done["selflabel_acc"]) <= 1
        assert cells(folder)[0][6:] == ["-"] * 4
    for value in (1, 0.4):
        point = folder / f"selflabel.threshold={value}" / "seed-0"
        assert os.path.samefile(run / "scan" / "weights.npz", point / "scan" / "weights.npz")
    # Nothing in the parent has changed.
    assert {name: snapshot(run)[name] for name in before} == before


@pytest.mark.slow
def test_images_without_labels(tmp_path, capsys):
    folder = write_images(tmp_path / "flat", 20, channel=0, seed=0)
    for path in write_images(tmp_path / "more", 20, channel=2, seed=1).iterdir():
        path.rename(folder / f"more-{path.name}")
    settings = ("pretext.epochs=1", "scan.num_clusters=2")
    config = write_config(tmp_path / "flat.yaml", folder, *settings)
    run = tmp_path / "run"
    assert scan_tf("pretext", "--config", config, "--run-dir", run) == 0
    command = ("sweep", "--run-dir", run, "scan.num_clusters=2,4", *FAST, "--seeds", "1")
    assert scan_tf(*command, "selflabel.threshold=0") == 0
    folder = run / "sweeps" / "scan.num_clusters"
    table = rows(folder)
    assert [row["num_clusters"] for row in table] == ["2", "4"]
    assert all(row["scan_acc"] == "" for row in table)
    first, _ = cells(folder)
    assert first[:2] == ["2", "1"]
    assert first[2] == f"{100 * float(table[0]['scan_mean_confidence']):.1f}"
    assert (folder / "sweep.png").exists()
    # The neighbours, which the parent has not, were found once.
    mined = {(run / "neighbors" / "train.npz").stat().st_ino for run in folder.glob("*/seed-*")}
    assert len(mined) == 1
    out = capsys.readouterr().out
    assert "SCAN confidence" in out
    assert "ACC" not in out.split("[2/2]")[1].split("| scan.num_clusters")[1]


def test_seeds_give_mean_and_deviation_on_one_pretext(finished, tmp_path, monkeypatch, capsys):
    run, scored, score = copy(finished, tmp_path / "run"), [], evaluate.score
    monkeypatch.setattr(evaluate, "score", lambda *what: (scored.append(what), score(*what))[1])
    assert scan_tf("evaluate", "--run-dir", run, "--seeds", "0", "1", *FAST) == 0
    folder = run / "sweeps" / f"seeds+{'+'.join(FAST)}"
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert (scores["seeds"], scores["deviation"]) == ([0, 1], "population")
    reports = [report(folder / f"seed-{seed}") for seed in (0, 1)]
    for stage in ("scan", "selflabel"):
        for key in tables.MEASURES:
            values = [r[stage][key] for r in reports]
            assert scores[stage][key]["values"] == values
            assert scores[stage][key]["mean"] == pytest.approx(statistics.mean(values))
            assert scores[stage][key]["std"] == pytest.approx(np.std(values))
    for stage, same in (("pretext", True), ("scan", False)):
        first, second = (weights(folder / f"seed-{seed}", stage) for seed in (0, 1))
        equal = [np.array_equal(first[k], second[k]) for k in first if "heads" in k or same]
        assert all(equal) if same else not any(equal)
    assert [line[0] for line in cells(folder)] == [
        "k-means on pixels",
        "k-means on pretext features",
        "SCAN",
        "+ self-label",
    ]
    assert "over 2 seeds" in capsys.readouterr().out
    assert len(scored) == 1  # what does not depend on the clustering
    assert reports[0]["kmeans_pixels"] == reports[1]["kmeans_pixels"] is not None


def test_the_parents_own_clustering_is_one_of_the_seeds(finished, tmp_path, monkeypatch):
    run = copy(finished, tmp_path / "run")
    evaluated = []

    def run_stage(work, stage):
        if not work.is_done(stage):
            evaluated.append(stage)
            raise TrainingError("is not what is tested")

    monkeypatch.setattr(stages, "run_stage", run_stage)
    with pytest.raises(TrainingError, match="1 of 1 points failed"):
        sweep.repeat(opened(run), [0])
    assert evaluated == ["evaluate"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--seeds", "0", "--redo", "scan"), "without --redo"),
        (("--seeds", "0", "--split", "train"), "evaluate.split=train"),
        (("--seeds", "0", "scan.epochs=1,2"), "scan-tf sweep"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_what_does_not_go_with_seeds_is_refused(swept, arguments, part, capsys):
    before = snapshot(swept)
    assert scan_tf("evaluate", "--run-dir", swept, *arguments) == 2
    assert part in capsys.readouterr().err
    assert snapshot(swept) == before


@pytest.mark.parametrize("seeds", [("x",), ("9" * 5000,), ("-1",), ("scan.epochs=3",), ("1.5",)])
def test_seeds_are_whole_numbers(swept, seeds, capsys):
    with pytest.raises(SystemExit) as end:
        scan_tf("evaluate", "--run-dir", swept, "--seeds", *seeds)
    assert end.value.code == 2
    assert "--seeds: expected" in capsys.readouterr().err


def test_a_pretext_that_is_missing_names_the_command(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run", without="pretext")
    assert scan_tf("sweep", "--run-dir", run, "scan.epochs=1,2") == 2
    assert f"scan-tf pretext --run-dir {run}" in capsys.readouterr().err
