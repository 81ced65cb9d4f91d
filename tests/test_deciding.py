"""`scan.num_clusters=auto`: decided once on the features, written down, and read from there."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny_runs
from tiny_runs import opened, write_config, write_images

from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.evaluation import num_clusters
from scan_tf.experiments import packs
from scan_tf.pipeline import decided, deciding, status
from scan_tf.pipeline import record as records
from scan_tf.pipeline.record import Record
from scan_tf.storage.files import write_npz

AUTO = "scan.num_clusters=auto"


def stub(root, rows, *, labels=False):
    """A run whose neighbours are found: what is read of it, without what takes training."""
    for channel, name in enumerate(tiny_runs.CLASSES):
        folder = root / "images" / name
        write_images(folder, 20, channel, seed=0)
        if not labels:
            for file in folder.iterdir():
                file.rename(root / "images" / f"{name}-{file.name}")
            folder.rmdir()
    run_dir = root / "run"
    run_dir.mkdir()
    write_config(run_dir / "config.yaml", root / "images")
    run = opened(run_dir)
    facts = {"image_facts": {"count": 60, "size": 8, "mean": [0.5] * 3, "std": [0.2] * 3}}
    facts["image_facts"]["num_classes"] = 3 if labels else None
    for stage, result in (("pretext", facts), ("neighbors", {})):
        run.folder(stage).mkdir()
        record = Record("done", 1.0, run.read_by(stage), result, files={"train.npz": "made"})
        records.write(run_dir, stage, record)
    write_npz(run_dir / "neighbors" / "features.npz", {"train": rows}, {})
    return run_dir


@pytest.fixture
def rows(rng):
    """Features of four groups, though there are three classes."""
    centers = rng.standard_normal((4, 12)) * 4
    return (np.repeat(centers, 15, axis=0) + rng.standard_normal((60, 12))).astype(np.float32)


@pytest.fixture
def run_dir(tmp_path, rows):
    return stub(tmp_path, rows)


def test_it_is_decided_once_and_read_from_then_on(run_dir, capsys, monkeypatch):
    run = opened(run_dir)
    assert decided.seconds(run) > 0
    with pytest.raises(StageError, match="not decided yet. Run: scan-tf scan --run-dir"):
        _ = run.num_clusters
    deciding.decide(run)
    said = capsys.readouterr().out
    assert "clusters: deciding how many, on the features, without labels" in said
    assert run.num_clusters == 4
    written = json.loads((run_dir / "neighbors" / "clusters.json").read_text())
    assert (written["num_clusters"], written["num_images"]) == (4, 60)
    assert written["range"][0] <= 4 <= written["range"][1]
    assert written["sentence"] in said
    assert [point["num_clusters"] for point in written["curve"]] == [2, 3, 4, 5, 6]
    assert (run_dir / "neighbors" / "clusters.png").stat().st_size > 1000
    # Whoever opens the run later has it from there: nothing is decided again.
    monkeypatch.setattr(num_clusters, "estimate", None)
    for again in (opened(run_dir), opened(run_dir, AUTO)):
        deciding.decide(again)
        assert again.num_clusters == 4
        assert decided.seconds(again) == 0
    assert opened(run_dir, "scan.num_clusters=5").num_clusters == 5
    assert written["sentence"] in status.describe(run_dir)
    assert run_dir / "neighbors" / "clusters.json" in set(packs._contents(run_dir))


def test_other_settings_and_damage_decide_anew(run_dir, caplog):
    deciding.decide(opened(run_dir))
    narrow = opened(run_dir, "scan.num_clusters_range=[2,3]")
    assert decided.read(narrow) is None
    deciding.decide(narrow)
    assert narrow.num_clusters <= 3
    path = decided.path(narrow)
    path.write_text(path.read_text().replace('"num_images": 60', '"num_images": 61'))
    assert decided.read(narrow) is None
    assert "damaged (its checksum does not fit); the number is decided again" in caplog.text
    # A clustering that was trained with it keeps it.
    result = {"num_clusters": 3}
    records.write(run_dir, "scan", Record("done", 1.0, narrow.read_by("scan"), result))
    assert narrow.num_clusters == 3


def test_labels_say_how_many_unless_it_is_asked_for(tmp_path, rows, capsys):
    run_dir = stub(tmp_path, rows, labels=True)
    run = opened(run_dir)
    deciding.decide(run)
    assert run.num_clusters == 3
    assert not decided.path(run).exists()
    asked = opened(run_dir, AUTO)
    deciding.decide(asked)
    assert asked.num_clusters == 4


def test_the_sizes_are_told_with_the_setting_to_change(run_dir, monkeypatch, rows):
    found = num_clusters.estimate(rows, high=5)
    unequal = dataclasses.replace(found, sizes=(40, 10, 6, 4))
    said = deciding.as_tree(unequal, "scan")["unequal"]
    assert said.startswith("The kinds look unequal in size: clusters of 4 to 40 images")
    assert said.endswith("scan.entropy_weight=2 weakens that preference.")
    assert "(with scan.name=scan)" in deciding.as_tree(unequal, "temi")["unequal"]
    assert deciding.as_tree(dataclasses.replace(found, sizes=(5, 5)), "scan")["unequal"] is None


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("scan.num_clusters_range=[9,3]", ConfigError, "expected the least number first"),
        ("scan.num_clusters_range=[7,9]", DataError, "takes at least 70 images, got 60"),
        ("scan.num_clusters=61", StageError, "is 61, expected 2 to 60"),
    ],
)
def test_what_cannot_be_decided_is_refused_at_once(run_dir, override, error, message):
    with pytest.raises(error, match=message):
        deciding.check(opened(run_dir, override))


@pytest.mark.slow
def test_a_run_goes_on_with_the_number_to_its_end(finished, tmp_path, capsys):
    run = tiny_runs.copy(finished, tmp_path / "run", without="scan")
    short = ("scan.epochs=1", "selflabel.epochs=0", "scan.num_clusters_range=[2,5]")
    assert tiny_runs.scan_tf("run", "--run-dir", run, AUTO, *short) == 0
    said = capsys.readouterr().out
    number = opened(run).num_clusters
    assert "clusters: deciding how many" in said
    assert "the true number is 3" in said
    report = json.loads((run / "eval" / "report.json").read_text())
    assert report["num_clusters"] == number
    assert report["num_clusters_auto"]["true"] == 3
    assert "How many clusters" in (run / "eval" / "report.html").read_text()
    assert "num_clusters: auto" in (run / "config.yaml").read_text()
    assert json.loads((run / "export" / "model.json").read_text())["num_clusters"] == number
    table = tmp_path / "found.csv"
    images = opened(run).config.data.path
    assert tiny_runs.scan_tf("predict", run, images, "--output", table) == 0
    assert tiny_runs.scan_tf("run", "--run-dir", run) == 0  # done, and nothing is decided again
    assert "deciding" not in capsys.readouterr().out.split("path,")[-1]
    sweep = ("sweep", "--run-dir", run, "scan.batch_size=16,20", "--no-selflabel")
    assert tiny_runs.scan_tf(*sweep) == 0
    assert "deciding" not in capsys.readouterr().out
