"""A disk without room, anywhere: a line that names folder and size, and nothing left over.

A limit on the size of files stands for the disk: the system refuses what grows beyond it.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import copy, opened, scan_tf

from scan_tf.cli import program
from scan_tf.config import NeighborsConfig
from scan_tf.errors import StageError
from scan_tf.evaluation import charts
from scan_tf.features import approximate, neighbors
from scan_tf.handover import row_files, undo_file
from scan_tf.handover.sorted_file import Sorted
from scan_tf.models import torch_files
from scan_tf.pipeline.fitting import fit
from scan_tf.storage import files

ROOT = Path(__file__).parents[1]
ROWS = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
NO_ROOM = r"^{folder}: (more than )?\d+ [KM]iB are needed there \(.*are free\)\. Make room and run"


@contextlib.contextmanager
def no_room(size: int = 20_000) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _annoy(path: Path) -> None:
    approximate.annoy_index(ROWS, NeighborsConfig(n_trees=5), seed=0, path=path)


def _annoy_on_disk(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate, "_IN_MEMORY", 0)
        _annoy(path)


def _neighbors(path: Path) -> None:
    indices = np.zeros((2000, 5), np.int32)
    found = neighbors.Neighbors(indices, np.ones((2000, 5), np.float32), "exact", "", 1.0, 0.0)
    neighbors.save(path, found)


def _rows(path: Path) -> None:
    with row_files.writing(path, {"path": str, "confidence": float}) as write:
        write({"path": ["a" * 50] * 2000, "confidence": np.ones(2000)})


def _weights(path: Path) -> None:
    with files.atomic(path) as fresh:
        torch_files.write(fresh, {"backbone.conv1.weight": ROWS})


def _hdf5(path: Path) -> None:
    import h5py

    with files.atomic(path) as fresh, h5py.File(fresh, "w", locking=False) as file:
        file["weights"] = ROWS


def _picture(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 9))
    figure.subplots().imshow(ROWS)
    charts.save(figure, path)


def _copy(path: Path) -> None:
    source = path.with_name("source")
    if not source.exists():
        source.write_bytes(bytes(50_000))  # when there is room
    Sorted.of(source, f"{path.name}/x", "copy").make(path.parent)


def _folder(path: Path) -> None:
    with files.replacing(path) as fresh:
        (fresh / "part").write_bytes(bytes(50_000))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "x.npz": lambda path: files.write_npz(path, {"rows": ROWS}, {}),
    "x.npy": lambda path: files.write_npy(path, ROWS),
    "x.txt": lambda path: files.write_text(path, "x" * 50_000),
    "index.ann": _annoy,
    "large-index.ann": _annoy_on_disk,
    "train.npz": _neighbors,
    "x.csv": _rows,
    "x.jsonl": _rows,
    "x.pth": _weights,
    "x.h5": _hdf5,
    "x.png": _picture,
    "sorted": _copy,
    "folder": _folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_has_no_room_is_refused_with_folder_and_size(tmp_path, name):
    if name == "x.pth":
        pytest.importorskip("torch")
    (tmp_path / "source").write_bytes(bytes(50_000))
    path = tmp_path / name
    folder = path if name == "sorted" else tmp_path
    with no_room(), pytest.raises(StageError, match=NO_ROOM.format(folder=folder)) as error:
        WRITERS[name](path)
    assert error.value.exit_code == 2
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "source"]
    assert left == []
    WRITERS[name](path)
    assert path.exists()


def test_a_line_of_the_undo_file_is_whole_or_an_error(tmp_path):
    (tmp_path / "source").touch()
    file = Sorted.of(tmp_path / "source", "a/b", "symbolic")
    with undo_file.noting(tmp_path / undo_file.NAME) as note:
        note(file)
        size = (tmp_path / undo_file.NAME).stat().st_size
        with no_room(size + 10), pytest.raises(StageError, match="are needed there"):
            note(file)
    assert undo_file.read(tmp_path / undo_file.NAME) == [file]


def test_images_of_a_fit_that_have_no_room_are_not_taken_for_others(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    with no_room(), pytest.raises(StageError, match=NO_ROOM.format(folder=tmp_path)):
        fit(images, 10, "digits_simclr", run_dir=tmp_path)
    assert not (tmp_path / "images.npy").exists()


def _tensorflow_error() -> Exception:
    import tensorflow as tf

    return tf.errors.ResourceExhaustedError(
        None, None, "/runs/x/export/variables: No space left on device\n\t [[node save]]"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (lambda: OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp: more than 0 K"),
        (lambda: OSError(errno.EDQUOT, "Disk quota exceeded"), "no room: [Errno 122] Disk quota"),
        (lambda: RuntimeError("write failed: No space left on device"), "no room: write failed"),
        (_tensorflow_error, "no room: /runs/x/export/variables: No space left on device. Make"),
    ],
)
def test_whoever_notices_the_full_disk_the_user_gets_a_line(error, told, capsys):
    assert program._failed(error()) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"scan-tf: {told}")
    assert text.endswith("Make room and run the same command again.\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_where_the_output_itself_has_no_room_the_program_ends_with_2(tmp_path, stream):
    path = tmp_path / "log"
    command = [sys.executable, "-m", "scan_tf.cli", "settings"]
    if stream == "stderr":
        command += ["none.such"]
    with open(path, "wb") as log, no_room(1):
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        done = subprocess.run(command, cwd=ROOT, text=True, **{**streams, stream: log})
    assert done.returncode == 2
    assert path.stat().st_size == 1
    if stream == "stdout":
        assert done.stderr.startswith("scan-tf: no room: ")
        assert "Traceback" not in done.stderr


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    assert not files.lacks_room(PermissionError(errno.EACCES, "Permission denied", "/tmp/x"))
    with pytest.raises(ValueError, match="shape"), files.room(tmp_path / "x"):
        raise ValueError("shape")


@pytest.mark.parametrize(("stage", "limit"), [("neighbors", 3_000), ("export", 20_000)])
def test_a_stage_goes_on_after_room_was_made(finished, tmp_path, capsys, stage, limit):
    run = copy(finished, tmp_path / "run", without=stage)
    with no_room(limit):
        assert scan_tf(stage, "--run-dir", run) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("scan-tf: ")]
    assert "are needed there" in line
    assert "Make room and run the same command again." in line
    assert str(run) in line
    assert not (run / "export").exists() or stage != "export"
    assert scan_tf(stage, "--run-dir", run) == 0
    assert opened(run).is_done(stage)
