from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import copy, opened, weights

from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.experiments import packs


def carried(run: Path, target: Path, **options) -> Path:
    packs.pack(run, target.with_suffix(".pack"))
    packs.unpack([target.with_suffix(".pack")], target, **options)
    return target


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {k: file[k] for k in file.files}


def begin(run: Path, stage: str) -> Path:
    """Make a stage of a finished run one that was interrupted."""
    path = run / "status" / f"{stage}.json"
    record = json.loads(path.read_text(encoding="utf-8")) | {"status": "interrupted"}
    del record["sha256"]
    path.write_text(json.dumps(record), encoding="utf-8")
    for later in ("selflabel", "evaluate", "export"):
        if later != stage:
            opened(run).redo(later)
    return run


def test_a_finished_run_travels_without_what_can_be_made_again(finished, tmp_path):
    run = carried(finished, tmp_path / "run")
    for stage in ("pretext", "scan", "selflabel"):
        before, after = weights(finished, stage), weights(run, stage)
        assert before.keys() == after.keys()
        assert all(before[k].tobytes() == after[k].tobytes() for k in before)
    stages = ("pretext", "neighbors", "scan", "selflabel", "evaluate")
    assert names(run) == {
        *("config.yaml", "environment.json", "eval/report.json", "neighbors/train.npz"),
        "eval/reference.npz",
        *("pretext/weights.npz", "scan/weights.npz", "selflabel/weights.npz", "scan/best.json"),
        *(f"{s}/metrics.jsonl" for s in ("pretext", "scan", "selflabel")),
        *(f"status/{s}.json" for s in stages),
        "status/images.npz",
    }
    assert all(opened(run).is_done(stage) for stage in stages)
    assert not opened(run).is_done("export")


def test_a_stage_that_has_begun_travels_with_its_state(finished, tmp_path):
    begun = begin(copy(finished, tmp_path / "begun"), "scan")
    run = carried(begun, tmp_path / "run")
    assert {n for n in names(run) if n.startswith("scan/")} == {
        *("scan/best.npz", "scan/ckpt/state.npz", "scan/metrics.jsonl", "scan/best.json"),
    }
    before, after = (arrays(r / "scan" / "ckpt" / "state.npz") for r in (begun, run))
    assert before.keys() == after.keys()
    np.testing.assert_equal(after, before)
    best = (arrays(r / "scan" / "best.npz") for r in (begun, run))
    np.testing.assert_equal(*best)


def test_heads_that_are_warm_travel_without_their_state(finished, tmp_path):
    begun = begin(copy(finished, tmp_path / "begun"), "scan")
    shutil.copytree(begun / "scan" / "ckpt", begun / "scan" / "heads" / "ckpt")
    run = carried(begun, tmp_path / "cold")
    assert (run / "scan" / "heads" / "ckpt" / "state.npz").exists()
    shutil.copy(begun / "scan" / "weights.npz", begun / "scan" / "heads" / "weights.npz")
    run = carried(begun, tmp_path / "warm")
    assert (run / "scan" / "heads" / "weights.npz").exists()
    assert not (run / "scan" / "heads" / "ckpt").exists()


def test_repetitions_travel_with_their_scores_or_their_state(finished, tmp_path):
    begun = copy(finished, tmp_path / "begun")
    seeds = begun / "sweeps" / "seeds"
    for seed in (1, 2):
        copy(finished, seeds / f"seed-{seed}")
    (seeds / "scores.json").write_text("{}")
    begin(seeds / "seed-2", "selflabel")
    run = carried(begun, tmp_path / "run")
    done, other = (run / "sweeps" / "seeds" / f"seed-{seed}" for seed in (1, 2))
    assert not any(n.endswith(".npz") for n in names(done))
    assert (done / "eval" / "report.json").exists()
    assert opened(done).is_done("evaluate")
    # They take pretext and neighbours from the run again.
    assert {n for n in names(other) if n.endswith(".npz")} == {
        "scan/weights.npz",
        "selflabel/ckpt/state.npz",
    }
    assert {n for n in names(other) if n.startswith("status/")} == {
        "status/scan.json",
        "status/selflabel.json",
    }
    assert (run / "sweeps" / "seeds" / "scores.json").exists()


def test_a_later_pack_of_a_run_shares_what_is_finished(finished, tmp_path):
    begun = begin(copy(finished, tmp_path / "begun"), "selflabel")
    _, *first = packs.pack(begun, tmp_path / "pack", part_mib=0.02)
    state = arrays(begun / "selflabel" / "ckpt" / "state.npz")
    state["optimizer/updates"] = state["optimizer/updates"] + 1
    np.savez(begun / "selflabel" / "ckpt" / "state.npz", **state)
    _, *later = packs.pack(begun, tmp_path / "pack", part_mib=0.02)
    shared = {p.name for p in first} & {p.name for p in later}
    done = sum((begun / s / "weights.npz").stat().st_size for s in ("pretext", "scan"))
    assert len(shared) >= 0.7 * done / (0.02 * 2**20)
    assert {p.name for p in first} - shared


def test_the_images_may_lie_elsewhere(finished, tmp_path):
    run = carried(finished, tmp_path / "run", data_path="/other/images")
    work = opened(run)
    assert work.config.data.path == "/other/images"
    assert work.is_done("evaluate")
    stay = opened(carried(finished, tmp_path / "stay"))
    assert stay.config.data.path == opened(finished).config.data.path


def test_what_is_there_is_not_overwritten(finished, tmp_path):
    packs.pack(finished, tmp_path / "pack")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(StageError, match="run: exists. Unpack into a new folder"):
        packs.unpack([tmp_path / "pack"], tmp_path / "run")
    assert names(tmp_path / "run") == {"mine.txt"}
    (tmp_path / "empty").mkdir()
    packs.unpack([tmp_path / "pack"], tmp_path / "empty")
    assert opened(tmp_path / "empty").is_done("evaluate")


def test_a_damaged_pack_leaves_nothing(finished, tmp_path):
    _, *parts = packs.pack(finished, tmp_path / "pack", part_mib=0.05)
    parts[-1].write_bytes(parts[-1].read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{parts[-1].name} is damaged"):
        packs.unpack([tmp_path / "pack"], tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["pack"]


def test_the_parts_are_a_plain_tar(finished, tmp_path):
    _, *parts = packs.pack(finished, tmp_path / "pack", part_mib=0.05)
    assert len(parts) > 3
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in sorted(parts)))
    with tarfile.open(joined) as archive:
        listed = archive.getnames()
        config = archive.extractfile("config.yaml").read()
    assert set(listed) == names(carried(finished, tmp_path / "run"))
    assert config == (finished / "config.yaml").read_bytes()
    assert {part.stat().st_size for part in parts[:-1]} == {round(0.05 * 2**20)}


def test_the_same_run_is_packed_to_the_same_bytes(finished, tmp_path):
    _, *one = packs.pack(finished, tmp_path / "one")
    _, *other = packs.pack(copy(finished, tmp_path / "run"), tmp_path / "other")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt"])
def test_nothing_is_written_outside_of_the_folder(tmp_path, name):
    folder = tmp_path / "pack"
    folder.mkdir()
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    digest = hashlib.sha256(text.getvalue()).hexdigest()
    part = {"name": f"000-{digest[:12]}.part", "bytes": len(text.getvalue()), "sha256": digest}
    (folder / part["name"]).write_bytes(text.getvalue())
    (folder / "manifest.json").write_text(json.dumps({"format": packs.FORMAT, "parts": [part]}))
    with pytest.raises(DataError, match="is no file inside of the folder"):
        packs.unpack([folder], tmp_path / "run")
    assert {p.name for p in tmp_path.iterdir()} == {"pack"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "parts": []}', '{"format": 2}'])
def test_another_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json: (cannot be read|no pack of format 2)"):
        packs.unpack([tmp_path], tmp_path / "run")


def test_parts_may_come_one_by_one_and_none_may_be_missing(finished, tmp_path):
    manifest, *parts = packs.pack(finished, tmp_path / "pack", part_mib=0.05)
    packs.unpack([*reversed(parts), manifest], tmp_path / "run")
    assert opened(tmp_path / "run").is_done("evaluate")
    with pytest.raises(DataError, match=f"1 of {len(parts)} parts: {parts[1].name} is missing"):
        packs.unpack([manifest, parts[0], *parts[2:]], tmp_path / "again")
    with pytest.raises(DataError, match="expected one manifest.json among the files, got 0"):
        packs.unpack(parts, tmp_path / "again")


def test_a_folder_that_is_no_pack_is_left_alone(finished, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"1")
    with pytest.raises(DataError, match="holds something that is no pack"):
        packs.pack(finished, tmp_path / "mine")
    with pytest.raises(ConfigError, match="--part-mib: must be greater than 0, got 0"):
        packs.pack(finished, tmp_path / "pack", part_mib=0)
    assert {p.name for p in tmp_path.iterdir()} == {"mine"}


def test_only_a_run_can_be_packed(tmp_path):
    with pytest.raises(StageError, match="no run directory; config.yaml is missing"):
        packs.pack(tmp_path, tmp_path / "pack")
