"""A run on pretrained features: nothing is trained but the heads, and all of it is handed over."""

from __future__ import annotations

import json
import time
import warnings

import keras
import numpy as np
import pytest
import tiny_runs

from scan_tf import files
from scan_tf.features.embedding import embed
from scan_tf.pipeline import build, timing
from scan_tf.pipeline.prediction import predict


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run on a small network of Keras in a file, whose random features are good enough."""
    root = tmp_path_factory.mktemp("pretrained")
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(12, 5, strides=4, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    with warnings.catch_warnings():
        # Keras 3.15 saves its variables in the way of NumPy 1.
        warnings.simplefilter("ignore", DeprecationWarning)
        network.save(root / "network.keras")
    images = tiny_runs.write_splits(root / "images")
    (root / "run").mkdir()
    tiny_runs.write_config(
        root / "run" / "config.yaml",
        images,
        "pretext.name=pretrained",
        f"pretext.weights={root / 'network.keras'}",
        "pretext.image_size=32",
        "pretext.dim=6",
        "scan.epochs=30",
        "scan.optimizer.lr=0.03",
        "scan.freeze_backbone=true",
        "scan.augmentation=none",
        "selflabel.epochs=0",
    )
    assert tiny_runs.scan_tf("run", "--run-dir", root / "run") == 0
    return root / "run"


def test_nothing_but_constants_and_heads_is_stored(run_dir):
    arrays, _ = files.read_npz(run_dir / "pretext" / "weights.npz")
    assert {k: v.shape for k, v in arrays.items()} == {
        "backbone/center": (12,),
        "backbone/components": (12, 6),
    }
    assert not (run_dir / "selflabel").exists()
    record = json.loads((run_dir / "status" / "pretext.json").read_text(encoding="utf-8"))
    assert record["result"]["backbone"]["name"] == "network.keras"
    assert 0.9 < record["result"]["variance_kept"] <= 1


def test_neighbours_and_heads_use_the_stored_features(run_dir):
    run = tiny_runs.opened(run_dir)
    stored = files.read_npz(run_dir / "neighbors" / "features.npz")[0]["train"]
    backbone = build.trained_pretext(run).backbone
    np.testing.assert_allclose(embed(backbone.embed, run.train_images), stored, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
    # Fitted on all images, and computed once for each split.
    assert len(list((run_dir / "pretext" / "features").glob("*.npy"))) == 2


def test_the_report_and_the_saved_model_are_of_the_clustering(run_dir, tmp_path):
    report = json.loads((run_dir / "eval" / "report.json").read_text(encoding="utf-8"))
    assert report["selflabel"] is None
    assert report["scan"]["acc"] > 0.9
    images = tiny_runs.opened(run_dir).images("test")
    predict(run_dir, list(images.paths), tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1:]
    clusters = [int(line.split(",")[1]) for line in lines]
    stored = np.load(run_dir / "eval" / "assignments.npz")["scan_cluster"]
    np.testing.assert_array_equal(clusters, stored)


def test_minutes_are_planned_by_the_heads(eager, run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "_TIMED_S", 0.0)
    run = tiny_runs.opened(tiny_runs.copy(run_dir, tmp_path / "run", without="scan"))
    timing.fit(run, 300, time.monotonic())
    said = capsys.readouterr().out
    assert "neighbors: done before" in said
    epochs = run.config.scan.epochs
    assert epochs > 30
    assert f"--minutes 5: scan {epochs} epochs. Planned: about " in said
    assert (run.config.selflabel.epochs, run.config.pretext.epochs) == (0, 30)
    assert not run.folder("scan").exists()


def test_minutes_of_a_last_stage_on_frozen_features(eager, run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "_TIMED_S", 0.0)
    tiny_runs.copy(run_dir, tmp_path / "run", without="scan")
    run = tiny_runs.opened(tmp_path / "run", "selflabel.epochs=5")
    timing.fit(run, 300, time.monotonic())
    assert run.config.scan.epochs / run.config.selflabel.epochs == pytest.approx(6, rel=0.2)
