from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from tiny_runs import (
    CLASSES,
    PER_CLASS,
    copy,
    opened,
    scan_tf,
    snapshot,
    weights,
    write_config,
    write_images,
)

import scan_tf as package
from scan_tf.errors import StageError, TrainingError
from scan_tf.features import neighbors
from scan_tf.pipeline import learning, stages
from scan_tf.pipeline import record as records
from scan_tf.pipeline.stage import STAGES
from scan_tf.storage import files
from scan_tf.storage.files import read_metrics

TRAIN = PER_CLASS["train"] * len(CLASSES)
CONFIGS = Path(__file__).parents[1] / "configs"
TRAINED = ("pretext", "scan", "selflabel")


def rows(run: Path, stage: str) -> list[dict]:
    return read_metrics(run / stage / "metrics.jsonl")


def report(run: Path) -> dict:
    return json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))


def test_every_stage_leaves_what_the_next_one_reads(finished):
    work = opened(finished)
    for stage in STAGES:
        assert work.is_done(stage)
        assert work.record(stage).wall_time_s > 0
    mined = neighbors.load(finished / "neighbors" / "train.npz")
    assert (mined.indices.dtype, mined.indices.shape) == (np.int32, (TRAIN, 4))
    for stage in TRAINED:
        assert any(name.startswith("backbone/") for name in weights(finished, stage))
    # Of the two heads, the one that was selected.
    kept, head = weights(finished, "scan"), work.record("scan").result["head"]
    assert {k for k in kept if k.startswith("heads/")} == {"heads/0/kernel", "heads/0/bias"}
    with np.load(finished / "scan" / "best.npz") as best:
        for part in ("kernel", "bias"):
            np.testing.assert_array_equal(kept[f"heads/0/{part}"], best[f"heads/{head}/{part}"])
    signature = tf.saved_model.load(finished / "export").signatures["serving_default"]
    out = signature(images=tf.zeros([2, 5, 7, 3], tf.uint8))
    assert out["probabilities"].shape == (2, 3)


@pytest.mark.parametrize(
    ("stage", "steps", "epochs", "parts"),
    [
        ("pretext", 3, 20, {"lr"}),
        ("scan", 3, 12, {"total", "consistency", "entropy", "selection", "selection_best", "lr"}),
        ("selflabel", 3, 12, {"confident", "skipped", "lr", "size_entropy", "agreement_ece"}),
    ],
)
def test_the_metrics_have_a_row_for_every_logged_step(finished, stage, steps, epochs, parts):
    logged = rows(finished, stage)
    total = steps * epochs
    assert [r["step"] for r in logged] == [
        s for s in range(1, total + 1) if s % 2 == 0 or s % steps == 0
    ]
    assert all(r["epoch"] == round(r["step"] / steps, 4) for r in logged)
    assert all(r.keys() >= {"step", "epoch", "loss"} for r in logged)
    assert logged[-1].keys() >= parts
    assert all(np.isfinite(value) for r in logged for value in r.values())


@pytest.mark.parametrize(
    ("stage", "needs"),
    [
        ("neighbors", "pretext"),
        ("scan", "neighbors"),
        ("selflabel", "scan"),
        ("evaluate", "scan"),
        ("export", "scan"),
    ],
)
def test_a_missing_input_names_the_command_that_makes_it(finished, tmp_path, stage, needs):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished / "config.yaml", run)
    with pytest.raises(StageError) as caught:
        stages.run_stage(opened(run), stage)
    assert f"'{needs}' has not finished" in str(caught.value)
    assert f"scan-tf {needs} --run-dir {run}" in str(caught.value)


def test_redo_replaces_a_stage_and_what_follows_it(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    before = snapshot(run)
    assert scan_tf("run", "--run-dir", run, "--redo", "evaluate") == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 4
    after = snapshot(run)
    changed = {name.split("/")[0] for name in before if before[name] != after.get(name)}
    assert changed == {"eval", "export", "status", "config.yaml", "environment.json"}
    kept = [f"status/{stage}.json" for stage in ("pretext", "neighbors", "scan", "selflabel")]
    assert all(before[name] == after[name] for name in kept)
    assert report(run) == report(finished)


def stopped(run: Path, stage: str, number: int) -> int:
    """Run the program in another process, and send the signal in the middle of a stage."""
    command = [sys.executable, "-m", "scan_tf.cli", "run", "--run-dir", str(run)]
    log = run.with_suffix(".log")
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        deadline = time.monotonic() + 1200
        while len(rows(run, stage)) < 4 or not (run / stage / "ckpt" / "state.npz").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        process.wait(timeout=600)
    return process.returncode


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        (stage, number, code)
        for stage in TRAINED
        for number, code in (
            (signal.SIGINT, 130),
            (signal.SIGTERM, 143),
            (signal.SIGKILL, -signal.SIGKILL),
        )
    ],
)
@pytest.mark.slow
def test_a_stopped_stage_goes_on_to_the_same_bits(finished, tmp_path, stage, number, code):
    run = copy(finished, tmp_path / "run", without=stage)
    assert stopped(run, stage, number) == code
    with np.load(run / stage / "ckpt" / "state.npz") as file:
        step = json.loads(str(file["manifest"]))["step"]
    assert 0 < step < rows(finished, stage)[-1]["step"]
    assert not (run / stage / "weights.npz").exists()
    work = opened(run)
    assert not work.is_done(stage)
    status = "running" if number == signal.SIGKILL else "interrupted"
    assert work.record(stage).status == status

    assert scan_tf(stage, "--run-dir", run) == 0
    resumed, straight = weights(run, stage), weights(finished, stage)
    assert resumed.keys() == straight.keys()
    for name, values in straight.items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)
    assert rows(run, stage) == rows(finished, stage)


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_with_the_same_bits(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="pretext")
    for stage in TRAINED:
        assert stopped(run, stage, signal.SIGKILL) == -signal.SIGKILL
    assert scan_tf("run", "--run-dir", run) == 0
    for stage in TRAINED:
        for name, values in weights(finished, stage).items():
            np.testing.assert_array_equal(weights(run, stage)[name], values, err_msg=name)
    timeless = {"wall_time_s": None}
    assert report(run) | timeless == report(finished) | timeless


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_everything_else_at_once(finished, tmp_path):
    """A flat folder without labels, two clusters, rotnet, host augmentation, bfloat16."""
    folder = write_images(tmp_path / "flat", 32, channel=0, seed=0)
    for path in write_images(tmp_path / "more", 32, channel=2, seed=1).iterdir():
        path.rename(folder / f"more-{path.name}")
    (folder / "broken.png").write_bytes(b"no image")
    path = write_config(
        tmp_path / "flat.yaml",
        folder,
        "pretext.name=rotnet",
        "augment.backend=host",
        "runtime.dtype=mixed_bfloat16",
        "scan.num_clusters=2",
        *(f"{stage}.epochs=2" for stage in TRAINED),
    )
    run = tmp_path / "run"
    written = package.run(package.load_config(path), run)
    assert written == report(run)
    assert written["split"] == "train"
    assert written["num_images"] == 64
    assert [Path(p).name for p in written["skipped_files"]] == ["broken.png"]
    assert written["kmeans_pixels"] is written["kmeans_features"] is None
    for name in ("scan", "selflabel"):
        assert [written[name][score] for score in ("acc", "nmi", "ari")] == [None] * 3
        assert 1 <= written[name]["num_clusters_used"] <= 2
    assert written["pretext"]["knn_acc"] is None
    assert opened(run).device.dtype == "mixed_bfloat16"
    # One word is all that another pretext takes.
    mine, other = (yaml.safe_load((r / "config.yaml").read_text()) for r in (run, finished))
    assert (mine["pretext"]["name"], other["pretext"]["name"]) == ("rotnet", "simclr")
    output = tmp_path / "preds.csv"
    assert scan_tf("predict", run, folder, "--output", output) == 0
    assert len(output.read_text().splitlines()) == 1 + 64


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
def test_more_clusters_than_classes_after_a_warm_up_of_the_heads(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="scan")
    work = opened(
        run,
        "scan.num_clusters=7",
        "scan.head_epochs=3",
        "scan.cached_views=2",
        "scan.epochs=1",
        "scan.selection=test",
    )
    stages.run_stage(work, "scan")
    assert [r["step"] for r in rows(run / "scan", "heads")] == [2, 3, 4, 6, 8, 9]
    stages.run_stage(work, "evaluate")
    written = report(run)
    assert written["selflabel"] is None
    assert written["selection"] == "test"
    for name in ("scan", "kmeans_features"):
        assert written[name]["matching"] == "majority_vote"
    assert len(written["scan"]["cluster_sizes"]) == 7


def damage(path: Path) -> None:
    """Cut a file off in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_shape(path: Path) -> None:
    """Weights as another width of the network would have them."""
    arrays, manifest = files.read_npz(path)
    arrays = {k: v[..., :2] if k.startswith("backbone/") else v for k, v in arrays.items()}
    files.write_npz(path, arrays, manifest | {"arrays": files.describe(arrays)})
    run, stage = path.parents[1], path.parent.name  # nor does the record know of the other ones
    records.write(run, stage, dataclasses.replace(records.read(run, stage), files={}))


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        ("pretext/weights.npz", damage, ("damaged",)),
        ("pretext/weights.npz", other_shape, ("do not fit this config", "backbone/")),
        ("pretext/weights.npz", Path.unlink, ("no such file",)),
        ("neighbors/train.npz", damage, ("damaged", "--redo neighbors")),
    ],
)
def test_a_file_that_does_not_fit_is_named(finished, tmp_path, name, change, parts):
    run = copy(finished, tmp_path / "run", without="scan")
    change(run / name)
    with pytest.raises(package.ScanError) as caught:
        stages.run_stage(opened(run), "scan")
    assert caught.value.exit_code == 2
    assert str(run / name) in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("override", "stage", "parts"),
    [
        ("neighbors.k=60", "neighbors", ("neighbors.k = 60", "got 60", "59 or less")),
        (
            "neighbors.k_validation=6",
            "scan",
            ("neighbors.k_validation: k = 6", "got 6", "5 or less"),
        ),
        ("scan.batch_size=55", "scan", ("scan.batch_size: 55", "54 images")),
        ("selflabel.batch_size=61", "selflabel", ("selflabel.batch_size: 61", "60 images")),
    ],
)
def test_too_few_images_name_the_setting(finished, tmp_path, override, stage, parts):
    first = "neighbors" if "neighbors" in override else stage
    run = copy(finished, tmp_path / "run", without=first)
    if first != stage:
        shutil.copytree(finished / first, run / first)
        with opened(run, override).working(first):
            pass
    with pytest.raises(package.ScanError) as caught:
        stages.run_stage(opened(run, override), stage)
    for part in parts:
        assert part in str(caught.value)


def test_self_labelling_without_a_confident_image_is_an_error(finished, tmp_path, monkeypatch):
    class Trainer:
        def __init__(self, *arguments, **_):
            self.folder = arguments[3]

        def run(self):
            self.folder.mkdir(exist_ok=True)
            row = {"step": 1, "epoch": 1.0, "loss": 0.0, "confident": 0.0, "skipped": 1.0}
            (self.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")

    monkeypatch.setattr(learning, "Trainer", Trainer)
    run = copy(finished, tmp_path / "run", without="selflabel")
    with pytest.raises(TrainingError, match="selflabel.threshold: no image"):
        stages.run_stage(opened(run), "selflabel")
    assert not opened(run).is_done("selflabel")


@pytest.mark.slow
def test_digits_are_learned_without_labels(tmp_path):
    quiet = ("runtime.progress=false", "runtime.tensorboard=false", "evaluate.pictures=false")
    config = package.load_config(CONFIGS / "digits_simclr.yaml", quiet)
    written = package.run(config, tmp_path)
    assert written["num_images"] == 1797
    assert written["selflabel"]["acc"] >= 0.9
    assert written["selflabel"]["acc"] > written["kmeans_pixels"]["acc"]
