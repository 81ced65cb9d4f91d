"""`scan-tf run FOLDER`: images and nothing else."""

from __future__ import annotations

import csv
import shlex

import pytest
import tiny_runs
import yaml

from scan_tf.cli import main
from scan_tf.settings import reading

# What makes a run of the recipe a matter of seconds.
SHORT = [
    "data.image_size=8",
    "model.backbone=tiny_networks.one_block",
    "model.width=4",
    "augment.strong_ops=1",
    "pretext.epochs=1",
    "pretext.batch_size=16",
    "neighbors.k=3",
    "neighbors.k_validation=2",
    "scan.epochs=1",
    "scan.batch_size=16",
    "scan.num_clusters=3",
    "selflabel.epochs=0",
    "evaluate.kmeans_restarts=1",
    "evaluate.pictures=false",
    "runtime.progress=false",
    "runtime.tensorboard=false",
]


@pytest.fixture
def photos(tmp_path):
    """A folder, with a name that means something to YAML, of images in three folders."""
    root = tmp_path / "my: photos, 2026 #1"
    for channel, name in enumerate(tiny_runs.CLASSES):
        tiny_runs.write_images(root / name, 12, channel, seed=0)
    return root


def test_a_folder_is_all_that_a_run_needs(photos, tmp_path, monkeypatch, capsys, eager):
    monkeypatch.setattr(reading, "folder_recipe", lambda: ("folder_from_scratch", "a test"))
    monkeypatch.chdir(tmp_path)
    with tiny_runs.own_handler():
        assert main(["run", str(photos), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "recipe: folder_from_scratch (a test)" in said
    assert "time: " not in said  # with epochs that somebody has given
    run = tmp_path / "runs" / photos.name
    assert f"scan-tf explore {shlex.quote(str(run.relative_to(tmp_path)))}" in said
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert settings["data"]["path"] == str(photos)
    with open(run / "eval" / "assignments.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "cluster", "name", "confidence"]
    assert [row["path"] for row in rows] == sorted(
        str(path.relative_to(photos)) for path in photos.rglob("*.png")
    )
    assert {int(row["cluster"]) for row in rows} <= {0, 1, 2}
    assert all(0 < float(row["confidence"]) <= 1 for row in rows)
    # The same command is done at once, whichever recipe it would choose now.
    monkeypatch.setattr(reading, "folder_recipe", lambda: ("none", "never asked"))
    with tiny_runs.own_handler():
        assert main(["run", str(photos), "--run-dir", str(run)]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nowhere"], 3, "nowhere: no such folder. Expected a folder of images, or settings"),
        ([".", ".."], 2, "expected one folder of images, got ., ..."),
    ],
)
def test_what_is_no_folder_is_refused(arguments, code, text, capsys):
    with tiny_runs.own_handler():
        assert main(["run", *arguments]) == code
    assert text in capsys.readouterr().err


def test_the_recipe_depends_on_what_is_installed(monkeypatch):
    for installed, name in ((True, "folder"), (False, "folder_from_scratch")):
        monkeypatch.setattr(reading.importlib.util, "find_spec", lambda _, found=installed: found)
        assert reading.folder_recipe()[0] == name
        assert name in reading.recipes()
