"""What is told of a run: of its images at the start, of its stages, of its features meanwhile."""

from __future__ import annotations

import json
import re
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_runs import scan_tf

from scan_tf import config, machine
from scan_tf.data import from_array
from scan_tf.pipeline import preview, summary
from scan_tf.pipeline.stage import STAGES
from scan_tf.training.progress import Progress


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A run whose pretext was interrupted: 60 of 300 steps, 2 a second."""
    tree = {
        "name": "mine",
        "pretext": {"epochs": 30, "batch_size": 100},
        "scan": {"epochs": 20, "batch_size": 100},
        "selflabel": {"epochs": 15, "batch_size": 100},
    }
    (tmp_path / "config.yaml").write_text(config.dump(config.from_dict(tree)))
    record(tmp_path, "pretext", "interrupted")
    (tmp_path / "pretext").mkdir()
    facts = {"step": 60, "total": 300, "steps_per_second": 2.0, "compile_s": 7.0}
    (tmp_path / "pretext" / "progress.json").write_text(json.dumps(facts))
    return tmp_path


def record(root: Path, stage: str, status: str) -> None:
    (root / "status").mkdir(exist_ok=True)
    facts = {"status": status, "wall_time_s": 600.0, "config": {}, "result": {}}
    (root / "status" / f"{stage}.json").write_text(json.dumps(facts))


def status(root: Path, capsys) -> list[str]:
    assert scan_tf("status", root) == 0
    return capsys.readouterr().out.splitlines()


def test_status_tells_how_far_a_run_is_and_how_long_the_rest_takes(run_dir, capsys):
    lines = status(run_dir, capsys)
    assert lines[0] == f"mine: {run_dir}"
    assert re.match(
        r"  pretext    interrupted, step 60 of 300 \(20%\), 2 steps/s: 2 min left; seen \d+ s ago",
        lines[1],
    )
    # 200 steps of as many passes, and compiling.
    assert lines[3] == "  scan       not begun, 20 epochs, about 2 min"
    assert re.match(r"about \d+ min of computing are left", lines[-2])
    assert lines[-1] == f"to go on: scan-tf run --run-dir {run_dir}"


def test_status_of_a_run_that_has_not_computed_and_of_one_that_is_done(run_dir, capsys):
    (run_dir / "pretext" / "progress.json").unlink()
    lines = status(run_dir, capsys)
    assert lines[1] == "  pretext    interrupted, no step yet"
    assert lines[3] == "  scan       not begun, 20 epochs"
    for stage in STAGES:
        record(run_dir, stage, "done")
    lines = status(run_dir, capsys)
    assert lines[1:] == [f"  {stage:10} done, in 10 min" for stage in STAGES]


def test_progress_is_left_for_status(tmp_path):
    with Progress(tmp_path / "scan", 10, 4, shown=False) as progress:
        progress.update(5)
    facts = json.loads((tmp_path / "scan" / "progress.json").read_text())
    assert facts == {"step": 5, "total": 10, "steps_per_second": None, "compile_s": 0.0}


# What was understood of the images


def images(count: int, labels=None):
    return from_array(np.full((count, 8, 8), 7, np.uint8), labels)


CPU = machine.Device("cpu", "float32", jit_step=False, jit_augment=True)


def told(train, evaluated, own=None, **sections) -> list[str]:
    run = types.SimpleNamespace(train_images=train, pretext_images=own or train, num_clusters=2)
    run.facts = types.SimpleNamespace(num_classes=2, count=len(train))
    run.config = config.from_dict(sections)
    run.device = CPU
    return list(summary.lines(run, evaluated))


def test_splits_classes_and_labels_are_told():
    train, test = images(6, list("aababb")), images(3, [0, 0, 1])
    assert told(train, train) == [
        "array: images of 8 x 8 pixels, 2 clusters",
        "  train: 6 images of 2 classes (a 3, b 3), scored",
        "  labels are read for the scores alone",
        f"  steps: pretext 0, scan 0, selflabel 0; on {machine.in_words(CPU)}",
    ]
    lines = told(train, test, own=images(1234))
    assert lines[1] == "  1,234 images for the pretext"
    assert lines[2:4] == [
        "  train: 6 images of 2 classes (a 3, b 3)",
        "  train: 3 images of 2 classes (0 2, 1 1), scored",
    ]
    assert told(images(4), images(4))[-2].startswith("  no labels: scores that compare")


@pytest.mark.parametrize(("count", "words"), [(1, "1 CPU core in"), (2, "2 CPU cores in")])
def test_the_machine_is_told(monkeypatch, count, words):
    monkeypatch.setattr(machine, "num_cpus", lambda: count)
    assert machine.in_words(CPU) == f"{words} float32"
    monkeypatch.setattr(machine, "hardware", lambda: {"accelerators": ["H200"]})
    gpu = machine.Device("gpu", "mixed_bfloat16", jit_step=True, jit_augment=True)
    assert machine.in_words(gpu) == "H200 in mixed_bfloat16"


def test_the_steps_that_lie_ahead_are_told():
    sections = {
        "pretext": {"epochs": 3, "batch_size": 10},
        "scan": {"epochs": 2, "batch_size": 7, "selection": "heldout"},
        "selflabel": {"epochs": 5, "batch_size": 30},
    }
    train = images(30)
    # Of 30 images 3 are held out; pretexts may have images of their own.
    lines = told(train, train, own=images(1000), **sections)
    assert lines[-1].startswith("  steps: pretext 300, scan 6, selflabel 5; on ")
    lines = told(train, train, **sections | {"pretext": "pretrained", "selflabel": {"epochs": 0}})
    assert lines[-1].startswith("  steps: scan 6; on ")


# A first look


@pytest.mark.parametrize(("count", "epochs"), [(50, 3), (4, 1)])
def test_the_preview_shows_neighbours_once_in_time_and_at_the_end(
    tmp_path, monkeypatch, capsys, count, epochs
):
    clock = iter([0.0, 60.0, 130.0, 140.0])
    monkeypatch.setattr("scan_tf.pipeline.preview.time.monotonic", lambda: next(clock))
    drawn = []
    sheet = preview.pictures.contact_sheet
    monkeypatch.setattr(
        preview.pictures, "contact_sheet", lambda *a: (drawn.append(a[3]), sheet(*a))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    settings = config.from_dict({"pretext": {"epochs": epochs}})
    run = types.SimpleNamespace(
        train_images=from_array(pixels),
        device=types.SimpleNamespace(jit_step=False),
        config=settings,
        root=tmp_path,
        inference=lambda name: {},
    )

    class Task:
        def embed(self, x):
            return tf.math.l2_normalize(tf.reshape(x, [tf.shape(x)[0], -1]), axis=-1)

    class Hook:
        record = {"kept": 1}

        def __call__(self, epoch):
            return {"knn_acc": 0.5}

    look = preview.Preview(run, Task(), Hook())
    assert look.record is Hook.record
    assert [look(epoch) for epoch in range(1, epochs + 1)] == [{"knn_acc": 0.5}] * epochs
    ends = [2, 3] if epochs == 3 else [1]
    assert drawn == [f"An image and its neighbours, after epoch {e} of the pretext" for e in ends]
    with Image.open(tmp_path / "preview.png") as picture:
        assert min(picture.size) > 100
    assert f"a first look at the features: {tmp_path / 'preview.png'}" in capsys.readouterr().out
