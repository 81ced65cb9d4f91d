"""What a run knows of itself: records and their copies, checksums, the images it has seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from scan_tf.config import Config
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet
from scan_tf.errors import StageError
from scan_tf.pipeline import extend, record, seen_images
from scan_tf.pipeline.record import Record
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage import files

DONE = Record("done", 1.5, {"scan": {"epochs": 3}}, {"head": 0, "best": None})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run directory in which the stages up to scan are done, as far as their records go."""
    run = Run(Config(), tmp_path / "run")
    outputs = {"pretext": "weights.npz", "neighbors": "train.npz", "scan": "weights.npz"}
    for stage, name in outputs.items():
        with run.working(stage):
            files.write_npz(run.folder(stage) / name, {"a": np.arange(9.0)}, {"of": stage})
            (run.folder(stage) / "metrics.jsonl").write_text('{"step": 1}\n')
    return run.root


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# Records


def test_a_record_comes_back(tmp_path):
    found = dataclasses.replace(DONE, files={"weights.npz": "00"}, extended=({"a": [1, 2]},))
    record.write(tmp_path, "scan", found)
    assert record.read(tmp_path, "scan") == found
    assert not record.read(tmp_path, "pretext").has_begun


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_the_copy_stands_for_a_damaged_record(tmp_path, caplog, damage):
    record.write(tmp_path, "scan", DONE)
    path = record.path_of(tmp_path, "scan")
    text = path.read_text()
    damaged = {"flipped": text.replace('"epochs": 3', '"epochs": 7'), "cut": text[:50], "empty": ""}
    path.write_text(damaged[damage])
    assert record.read(tmp_path, "scan") == DONE
    assert f"{path}: damaged; its copy" in caplog.text
    flip(tmp_path / "scan" / "record.json", 30)
    with pytest.raises(StageError, match="scan.json: damaged .*take the record from a pack"):
        record.read(tmp_path, "scan")


def test_a_copy_alone_is_no_record(tmp_path):
    record.write(tmp_path, "scan", DONE)
    record.path_of(tmp_path, "scan").unlink()
    assert not record.read(tmp_path, "scan").has_begun


def test_a_record_without_a_checksum_is_an_older_one(tmp_path):
    tree = {"status": "done", "wall_time_s": 1, "config": {}, "result": {}}
    files.write_text(record.path_of(tmp_path, "scan"), json.dumps(tree))
    assert record.read(tmp_path, "scan") == Record("done", 1.0)


# What later stages read


def test_a_flipped_bit_in_any_sealed_file_is_an_error_with_a_command(root):
    run = Run(Config(), root)
    for stage, name in (("pretext", "weights.npz"), ("neighbors", "train.npz")):
        assert run.sealed(stage, name).exists()
        flip(root / stage / name)
        way = f"scan-tf run --run-dir {root} --redo {stage}"
        with pytest.raises(StageError, match=f"{name}: damaged: .*{way}$"):
            run.sealed(stage, name)
    flip(root / "scan" / "metrics.jsonl")
    with pytest.raises(StageError, match=r"weights are good\)$") as end:
        run.sealed("scan", "metrics.jsonl")
    assert "--redo" not in str(end.value)


def test_what_is_not_sealed_or_not_there_is_let_pass(root):
    run = Run(Config(), root)
    (root / "scan" / "metrics.jsonl").unlink()
    assert not run.sealed("scan", "metrics.jsonl").exists()
    assert run.sealed("selflabel", "weights.npz") == root / "selflabel" / "weights.npz"


def test_a_stage_made_of_another_result_is_refused(root):
    run = Run(Config(), root)
    assert run.is_done("scan")
    record.path_of(root, "pretext").unlink()
    with run.working("pretext"):
        files.write_npz(root / "pretext" / "weights.npz", {"a": np.zeros(9)}, {})
    assert run.is_done("pretext")
    with pytest.raises(StageError, match=r"neighbors was made of another result of .* 'pretext'"):
        run.is_done("scan")


def test_redo_leaves_no_later_record_behind_however_it_ends(root, monkeypatch):
    run = Run(Config(), root)
    seen = []
    remove = files.os.replace

    def killed(source, target):
        seen.append([s for s in ("pretext", "neighbors", "scan") if run.record(s).has_begun])
        remove(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    run.redo("pretext")
    assert ["pretext", "neighbors"] in seen
    assert all(stages == ["pretext", "neighbors", "scan"][: len(stages)] for stages in seen)
    assert not any((root / stage).exists() for stage in ("pretext", "neighbors", "scan"))


# Going on with other settings


def changed(root: Path, **values: object) -> Run:
    section = dataclasses.replace(Config().scan, **values)
    return Run(dataclasses.replace(Config(), scan=section), root)


def test_a_stage_goes_on_with_more_epochs_and_what_follows_is_made_anew(root, capsys):
    (root / "scan" / "ckpt").mkdir()
    (root / "scan" / "ckpt" / "state.npz").touch()
    run = changed(root, epochs=Config().scan.epochs + 1)
    with pytest.raises(StageError, match="scan.epochs is"):
        run.is_done("scan")
    assert extend.extend(run) == "scan"
    assert "scan: goes on with scan.epochs" in capsys.readouterr().out
    assert not run.is_done("scan")
    assert (root / "scan" / "ckpt" / "state.npz").exists()
    before = Config().scan.epochs
    assert run.record("scan").extended == ({"scan.epochs": [before, before + 1]},)
    with run.working("scan"):
        pass
    assert run.record("scan").extended


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "no stage was begun with other settings"),
        ({"entropy_weight": 1.0}, "scan.entropy_weight cannot change while 'scan' goes on"),
        ({"epochs": 1}, "scan.epochs=1 is less than"),
        ({"epochs": 999}, "there is no checkpoint"),
    ],
)
def test_other_changes_are_no_extension(root, values, expected):
    if "there is no" not in expected:
        (root / "scan" / "ckpt").mkdir()
        (root / "scan" / "ckpt" / "state.npz").touch()
    with pytest.raises(StageError, match=expected):
        extend.extend(changed(root, **values))
    assert Run(Config(), root).is_done("scan")


# Images


def images(pixels: np.ndarray, split: str = "train") -> ImageSet:
    paths = tuple(f"d/{row}.png" for row in range(len(pixels)))
    return ImageSet("some", split, pixels, None, (), IMAGENET_MEAN, IMAGENET_STD, paths)


def test_other_images_are_refused_and_counted(tmp_path, rng):
    pixels = rng.integers(0, 256, (6, 4, 4, 3), np.uint8)
    before = images(pixels)
    seen_images.remember(tmp_path, {"train": seen_images.digests(before)})
    for other, expected in (
        (rng.integers(0, 256, (6, 4, 4, 3), np.uint8), "6 of 6 are new, 6 of 6 are gone"),
        (np.concatenate([pixels[:5], 255 - pixels[5:]]), r"1 of 6 are new, 1 .*\(new: d/5.png\)"),
        (np.concatenate([pixels, 255 - pixels[:1]]), "1 of 7 are new, 0 of 6 are gone"),
        (pixels[:4], "0 of 4 are new, 2 of 6 are gone"),
        (pixels[::-1], "another order"),
        (np.concatenate([pixels, pixels[:1]]), "7 in another order or number, not 6"),
    ):
        with pytest.raises(StageError, match=f"the train images are not those .*{expected}"):
            seen_images.check(tmp_path, images(other), seen_images.digests(images(other)))
    same = dataclasses.replace(before, paths=None)
    seen_images.check(tmp_path, same, seen_images.digests(same))
    unknown = images(pixels[:2], "test")
    seen_images.check(tmp_path, unknown, seen_images.digests(unknown))


def test_images_are_forgotten_with_what_was_made_of_them(tmp_path):
    rows = np.arange(3, dtype=np.uint64)
    seen_images.remember(tmp_path, {"train": rows})
    seen_images.remember(tmp_path, {"train": rows + 1, "test": rows})
    assert {split: found[0] for split, found in seen_images.known(tmp_path).items()} == {
        "train": 0,
        "test": 0,
    }
    seen_images.forget(tmp_path, ("test",))
    assert [*seen_images.known(tmp_path)] == ["train"]
