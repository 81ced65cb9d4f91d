"""Runs that were damaged, mixed up or begun by two: refused in a line, or gone on with exactly."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_writing import another_process
from tiny_runs import copy, opened, scan_tf, snapshot, weights

from scan_tf import machine
from scan_tf.errors import DataError, StageError
from scan_tf.evaluation.remarks import of_heads
from scan_tf.models.torch_files import TorchFile
from scan_tf.pipeline import doubt, embeddings, neighbors, porting, run_dir, seen_images
from scan_tf.pipeline.stage import STAGES
from scan_tf.storage.files import read_metrics, read_npz


def refused(capsys: pytest.CaptureFixture[str], *command: Any, code: int = 2) -> str:
    """The line with which a command is refused."""
    assert scan_tf(*command) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("scan-tf: ")]
    return line


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "command", "way"),
    [
        ("scan/weights.npz", "selflabel", "--redo scan"),
        ("selflabel/weights.npz", "export", "--redo selflabel"),
        ("neighbors/train.npz", "scan", "--redo neighbors"),
        ("scan/metrics.jsonl", "evaluate", "metrics.jsonl.damaged (the curves are left out"),
    ],
)
def test_a_flipped_bit_is_refused_with_the_command_that_restores_it(
    finished, tmp_path, capsys, file, command, way
):
    run = copy(finished, tmp_path / "run", without=command)
    flip(run / file)
    line = refused(capsys, command, "--run-dir", run)
    assert f"{run / file}: damaged" in line
    assert way in line


@pytest.mark.parametrize(
    ("file", "read", "way"),
    [
        ("eval/embeddings.npz", lambda run: embeddings.load(run / "eval"), "--redo evaluate"),
        ("eval/reference.npz", lambda run: doubt.read(run / "eval"), "--redo evaluate"),
        ("status/images.npz", seen_images.known, "remove it: it is made anew"),
    ],
)
def test_what_has_no_seal_tells_too_what_restores_it(finished, tmp_path, file, read, way):
    run = copy(finished, tmp_path / "run")
    flip(run / file)
    with pytest.raises(StageError, match=f"{file}: damaged .*{way}"):
        read(run)


def test_damaged_features_are_computed_anew(finished, tmp_path, monkeypatch, caplog):
    run = copy(finished, tmp_path / "run")
    flip(run / "neighbors" / "features.npz")
    monkeypatch.setattr(neighbors.build, "trained_pretext", lambda _: None)
    monkeypatch.setattr(neighbors, "of_pretext", lambda *_: np.ones((2, 2), np.float32))
    assert {*neighbors.features(opened(run))} == {"train", "test"}
    assert "features.npz: damaged" in caplog.text
    assert read_npz(run / "neighbors" / "features.npz")[0]["train"].shape == (2, 2)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_report_is_refused_with_the_command_that_restores_it(
    finished, tmp_path, capsys, text
):
    run = copy(finished, tmp_path / "run")
    (run / "eval" / "report.json").unlink()
    (run / "eval" / "report.json").write_text(text)
    line = refused(capsys, "publish", run, "--name", "x", "--results", tmp_path / "results")
    assert "report.json: damaged" in line
    assert f"scan-tf run --run-dir {run} --redo evaluate" in line
    assert not (tmp_path / "results").exists()


def test_a_second_program_is_refused_and_told_who_is_at_work(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run", without="export")
    body = "from scan_tf.storage import writing\nmine = writing.Writing(Path(sys.argv[1]))"
    with another_process(body, run) as first:
        for command in (
            ("run", "--run-dir", run),
            ("evaluate", "--run-dir", run, "--redo", "evaluate"),
            ("export", "--run-dir", run, "--format", "torch"),
            ("sweep", "--run-dir", run, "scan.epochs=1,2"),
            ("pack", run, tmp_path / "pack"),
        ):
            line = refused(capsys, *command)
            assert f"another program is at work in it: process {first.pid} on " in line
    assert opened(run).is_done("evaluate")
    assert not (tmp_path / "pack").exists()


def test_other_images_are_noticed_and_counted(finished, tmp_path, capsys, monkeypatch):
    run = copy(finished, tmp_path / "run", without="scan")
    load = run_dir.sources.load

    def changed(config, split):
        images = load(config, split)
        pixels = images.images.copy()
        pixels[3] = 7
        return dataclasses.replace(images, images=pixels)

    monkeypatch.setattr(run_dir.sources, "load", changed)
    line = refused(capsys, "scan", "--run-dir", run)
    assert "the train images are not those that this run has learnt from" in line
    assert "1 of 60 are new, 1 of 60 are gone (new: " in line
    assert line.endswith("--redo pretext.")


def test_where_the_images_are_now_is_remembered_though_the_stage_is_skipped(finished, tmp_path):
    run, images = copy(finished, tmp_path / "run"), tmp_path / "moved"
    before = opened(run).config
    shutil.copytree(before.data.path, images)
    assert scan_tf("neighbors", "--run-dir", run, f"data.path={images}", "scan.epochs=99") == 0
    after = opened(run).config
    assert after.data.path == str(images)
    assert after == dataclasses.replace(before, data=after.data)
    written = (run / "config.yaml").stat().st_mtime_ns
    assert scan_tf("neighbors", "--run-dir", run) == 0
    assert (run / "config.yaml").stat().st_mtime_ns == written


def test_a_checkpoint_without_its_record_is_not_taken_for_other_settings(
    finished, tmp_path, capsys
):
    run = copy(finished, tmp_path / "run", without="selflabel")
    shutil.copytree(finished / "selflabel" / "ckpt", run / "selflabel" / "ckpt")
    line = refused(capsys, "selflabel", "--run-dir", run, "selflabel.optimizer.lr=0.1")
    assert "the checkpoint is of another run: selflabel.optimizer.lr is " in line
    assert "0.1 here" in line


def test_another_number_of_threads_is_warned_of(finished, tmp_path, monkeypatch, caplog):
    run = copy(finished, tmp_path / "run", without="selflabel")
    shutil.copytree(finished / "selflabel" / "ckpt", run / "selflabel" / "ckpt")
    shutil.copy(finished / "selflabel" / "metrics.jsonl", run / "selflabel")
    monkeypatch.setattr(machine, "num_cpus", lambda: 77)
    assert scan_tf("selflabel", "--run-dir", run) == 0
    assert "goes on with 77: sums are made in another order" in caplog.text
    assert "selflabel: 77 threads, the stages before had " in caplog.text
    assert opened(run).record("selflabel").result["threads"] == 77
    np.testing.assert_equal(weights(run, "selflabel"), weights(finished, "selflabel"))


def test_a_finished_stage_goes_on_for_more_epochs(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    epochs = opened(run).config.selflabel.epochs
    more = f"selflabel.epochs={epochs + 2}"
    line = refused(capsys, "selflabel", "--run-dir", run, more)
    assert f"selflabel.epochs is {epochs} there, {epochs + 2} here" in line
    assert scan_tf("selflabel", "--run-dir", run, "--extend", more) == 0
    rows = read_metrics(run / "selflabel" / "metrics.jsonl")
    before = read_metrics(finished / "selflabel" / "metrics.jsonl")
    assert rows[: len(before)] == before
    assert rows[-1]["epoch"] == epochs + 2
    work = opened(run, more)
    assert work.record("selflabel").extended == ({"selflabel.epochs": [epochs, epochs + 2]},)
    assert [s for s in STAGES if work.is_done(s)] == ["pretext", "neighbors", "scan", "selflabel"]


def test_nothing_is_deleted_that_cannot_be_made_again(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    before = snapshot(run)
    redo = ("run", "--run-dir", run, "--redo", "pretext", "data.path=typo")
    assert "typo: no such folder" in refused(capsys, *redo, code=3)
    assert snapshot(run) == before


def test_weights_that_are_not_finite_are_not_imported(monkeypatch, tmp_path):
    bad = np.zeros((4, 3, 3, 3), np.float32)
    bad[0, 0, 0, 0] = np.nan
    file = TorchFile({"backbone.conv1.weight": bad, "backbone.bn1.weight": np.ones(4)})
    monkeypatch.setattr(porting.torch_files, "read", lambda _: file)
    with pytest.raises(DataError, match=r"1 of 2 .* not finite, such as 'backbone.conv1.weight'"):
        porting.import_checkpoint(None, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("used", "best", "expected"),
    [
        ([4, 4], 0, []),
        ([4], 0, []),
        ([1], 0, ["The head that is kept puts all images into one cluster"]),
        ([3, 4], 0, ["The head that is kept leaves 1 of 4 clusters empty"]),
        ([4, 1, 1], 0, ["2 of 3 heads put all images into one cluster"]),
        ([1, 1], 0, ["The head that is kept puts all", "2 of 2 heads put all"]),
    ],
)
def test_heads_that_have_collapsed_are_told_of(used, best, expected):
    found = of_heads(used, best, 4)
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))
