"""A run on pretrained features: nothing is trained but the heads, and all of it is handed over."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny_runs

from scan_tf.features.embedding import embed, head_probs
from scan_tf.pipeline import build, neighbors, stages, timing
from scan_tf.pipeline.prediction import predict
from scan_tf.storage import files


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


def test_status_knows_that_a_stage_without_epochs_is_left_out(run_dir, capsys):
    assert tiny_runs.scan_tf("status", run_dir) == 0
    said = capsys.readouterr().out
    assert "selflabel  left out, selflabel.epochs is 0" in said
    assert "to go on" not in said


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
    assert report["backbone"]["name"] == "network.keras"
    page = (run_dir / "eval" / "report.html").read_text(encoding="utf-8")
    assert "The features are those of network.keras; whether labels were used" in page
    images = tiny_runs.opened(run_dir).images("test")
    predict(run_dir, list(images.paths), tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1:]
    clusters = [int(line.split(",")[1]) for line in lines]
    stored = np.load(run_dir / "eval" / "assignments.npz")["scan_cluster"]
    np.testing.assert_array_equal(clusters, stored)


def test_forms_that_cannot_hold_a_pretrained_network_are_refused(run_dir, tmp_path, capsys):
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")
    assert tiny_runs.scan_tf("weights", run_dir, tmp_path / "x.weights.h5") == 2
    assert "scan-tf export" in capsys.readouterr().err
    assert tiny_runs.scan_tf("export", "--run-dir", run_dir, "--format", "torch") == 2
    assert "--format savedmodel, litert or onnx" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
    assert not (run_dir / "export-torch").exists()


def test_self_label_trains_the_head_on_views_that_are_looked_at_once(run_dir, tmp_path, caplog):
    copy = tiny_runs.copy(run_dir, tmp_path / "run")
    short = ["selflabel.epochs=4", "selflabel.cached_views=2", "selflabel.optimizer.lr=0.01"]
    assert tiny_runs.scan_tf("selflabel", "--run-dir", copy, *short) == 0
    (before, _), (after, _) = (
        files.read_npz(copy / stage / "weights.npz") for stage in ("scan", "selflabel")
    )
    changed = {name for name, array in after.items() if (array != before[name]).any()}
    assert changed == {name for name in after if name.startswith("heads/")}
    assert len(files.read_metrics(copy / "selflabel" / "metrics.jsonl")) > 4
    record = json.loads((copy / "status" / "selflabel.json").read_text(encoding="utf-8"))
    assert record["result"]["confident_last"] > 0.3


def test_views_are_looked_at_once_of_features_that_stay_the_same(run_dir, finished, capsys):
    settings = ["selflabel.epochs=1", "selflabel.cached_views=2"]
    assert tiny_runs.scan_tf("run", "--run-dir", finished, *settings) == 2
    said = capsys.readouterr().err
    assert "selflabel.cached_views: must be 0, got 2: the last stage trains the network" in said


@pytest.mark.parametrize("name", ["kmeans", pytest.param("spectral", marks=pytest.mark.slow)])
def test_a_clustering_that_trains_nothing_ends_like_one_that_does(run_dir, tmp_path, name):
    copy = tiny_runs.copy(run_dir, tmp_path / "run", without="scan")
    assert tiny_runs.scan_tf("run", "--run-dir", copy, f"scan.name={name}") == 0
    scored = json.loads((copy / "eval" / "report.json").read_text(encoding="utf-8"))["scan"]
    assert scored["acc"] > 0.9
    record = json.loads((copy / "status" / "scan.json").read_text(encoding="utf-8"))["result"]
    assert (record["epoch"], record["head"]) == (1, 0)
    assert not (copy / "scan" / "metrics.jsonl").exists()
    # The classifier puts the images where the clustering has put them.
    run = tiny_runs.opened(copy)
    backbone, heads = build.trained_clusters(run, "scan")
    task = build.new_clustering(run, backbone, heads)
    rows = embed(backbone.embed, run.train_images)
    found = task.assign(rows, neighbors.mined(run).indices, seed=run.seed("scan"))
    assert (head_probs(heads, rows)[0].argmax(axis=1) == found).mean() > 0.95
    with pytest.raises(TypeError, match="is not trained"):
        task.loss({})


@pytest.fixture
def features_run(run_dir, tmp_path):
    """What a run on features from elsewhere is asked, and the images' paths and features."""
    run = tiny_runs.opened(run_dir)
    stored = files.read_npz(run_dir / "neighbors" / "features.npz")[0]
    root = Path(run.config.data.path)
    paths = {s: [Path(p).relative_to(root).as_posix() for p in run.images(s).paths] for s in stored}
    (tmp_path / "run").mkdir()
    shutil.copy(run_dir / "config.yaml", tmp_path / "run")

    def start(file: Path, *settings: str) -> int:
        asked = [f"pretext.weights={file}", "scan.name=kmeans", *settings]
        return tiny_runs.scan_tf("run", "--run-dir", tmp_path / "run", *asked)

    return start, paths, stored


def test_features_from_elsewhere_are_clustered_and_not_exported(features_run, tmp_path, capsys):
    start, paths, stored = features_run
    every = [*paths["test"], *paths["train"]]  # in another order than the images
    rows = np.concatenate([stored["test"], stored["train"]]).astype(np.float64)
    np.savez(tmp_path / "features.npz", features=rows, paths=np.array(every))
    assert start(tmp_path / "features.npz") == 0
    report = json.loads((tmp_path / "run" / "eval" / "report.json").read_text(encoding="utf-8"))
    assert report["scan"]["acc"] > 0.9
    assert "export: left out" in capsys.readouterr().out
    assert tiny_runs.scan_tf("export", "--run-dir", tmp_path / "run") == 2
    assert "holds features, and no network" in capsys.readouterr().err
    assert start(tmp_path / "features.npz", "selflabel.epochs=3") == 2
    assert "selflabel.epochs: must be 0, got 3" in capsys.readouterr().err


def test_images_without_features_are_named(features_run, tmp_path, capsys):
    start, paths, stored = features_run
    np.savez(tmp_path / "few.npz", features=stored["train"][1:], paths=np.array(paths["train"][1:]))
    assert start(tmp_path / "few.npz") == 2
    said = capsys.readouterr().err
    assert "1 of 60 images have no row, such as" in said
    assert paths["train"][0] in said
    np.save(tmp_path / "order.npy", stored["train"][1:])
    assert start(tmp_path / "order.npy") == 2
    assert "59 rows for 60 images" in capsys.readouterr().err


@pytest.mark.slow
def test_the_network_is_trained_further_where_it_is_not_frozen(run_dir, tmp_path, eager):
    tuned = tmp_path / "run"
    tuned.mkdir()
    shutil.copy(run_dir / "config.yaml", tuned)
    asked = ["pretext.frozen=false", "selflabel.epochs=2", "selflabel.threshold=0.4"]
    assert tiny_runs.scan_tf("run", "--run-dir", tuned, "scan.epochs=2", *asked) == 0
    stored = {
        stage: files.read_npz(tuned / stage / "weights.npz")[0]
        for stage in ("pretext", "scan", "selflabel")
    }
    kernel = next(n for n in stored["pretext"] if n.startswith("backbone/") and "kernel" in n)
    # The heads alone are trained in the stage whose backbone is frozen.
    np.testing.assert_array_equal(stored["scan"][kernel], stored["pretext"][kernel])
    assert np.abs(stored["selflabel"][kernel] - stored["scan"][kernel]).max() > 1e-6
    exported = json.loads((tuned / "status" / "export.json").read_text(encoding="utf-8"))
    assert exported["result"]["agreement"] == 1


def test_minutes_are_planned_by_the_heads(eager, run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "_TIMED_S", 0.0)
    run = tiny_runs.opened(tiny_runs.copy(run_dir, tmp_path / "run", without="scan"))
    timing.fit(run, 300, time.monotonic())
    said = capsys.readouterr().out
    assert "neighbors: done before" in said
    epochs = run.config.scan.epochs
    assert epochs == 30  # more than the recipe has teach heads nothing
    assert f"--minutes 5: scan {epochs} epochs. Planned: about " in said
    assert (run.config.selflabel.epochs, run.config.pretext.epochs) == (0, 20)
    assert not run.folder("scan").exists()
    # What ran or was told of while the epochs were chosen is not told of again.
    stages.run_stage(run, "neighbors")
    run.redo("neighbors")
    stages.run_stage(run, "neighbors")
    stages.run_stage(run, "neighbors")
    assert "done before" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["confident", pytest.param("fixmatch", marks=pytest.mark.slow)])
def test_minutes_of_a_last_stage_on_frozen_features(
    eager, run_dir, tmp_path, monkeypatch, capsys, name
):
    monkeypatch.setattr(timing, "_TIMED_S", 0.0)
    tiny_runs.copy(run_dir, tmp_path / "run", without="scan")
    run = tiny_runs.opened(tmp_path / "run", f"selflabel.name={name}", "selflabel.epochs=5")
    timing.fit(run, 300, time.monotonic())
    assert run.config.scan.epochs / run.config.selflabel.epochs == pytest.approx(6, rel=0.2)
    assert "reliable" not in capsys.readouterr().out  # nothing has been clustered yet
