"""One writer, nothing half written, nothing left over."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scan_tf.errors import StageError
from scan_tf.storage import files, writing

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def another_process(body: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has run the lines and waits; killed at the end."""
    program = "import sys\nfrom pathlib import Path\nfrom scan_tf.storage import files, writing\n"
    waits = "\nprint('there', flush=True)\nsys.stdin.read()"
    indent = " " * (len(body.splitlines()[-1]) - len(body.splitlines()[-1].lstrip()))
    if body.rstrip().endswith(":"):
        indent += "    "
    command = [sys.executable, "-c", program + body + waits.replace("\n", f"\n{indent}")]
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# One writer


def test_the_second_writer_is_refused_and_told_who_is_the_first(tmp_path):
    with another_process("mine = writing.Writing(Path(sys.argv[1]))", tmp_path) as first:
        with pytest.raises(StageError, match="another program is at work in it: process ") as end:
            writing.Writing.of(tmp_path)
        assert f"process {first.pid} on " in str(end.value)
        assert end.value.exit_code == 2
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert writing.Writing.of(tmp_path)  # however the first one ended


def test_a_process_may_ask_again_until_it_lets_go(tmp_path):
    tried = (
        "try:\n    writing.Writing.of(Path(sys.argv[1]))\nexcept Exception as error:\n"
        "    sys.exit(str(error))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    imports = "import sys\nfrom pathlib import Path\nfrom scan_tf.storage import files, writing\n"
    command = [sys.executable, "-c", imports + tried, str(tmp_path)]
    first = writing.Writing.of(tmp_path)
    assert writing.Writing.of(tmp_path / "." / "status" / "..") is first
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert f"process {os.getpid()} on " in refused.stderr
    del first
    gc.collect()
    assert subprocess.run(command, env=environment).returncode == 0


def test_to_look_for_another_writer_writes_nothing(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        writing.Writing.refuse_another(folder)
    assert names(tmp_path) == ["file"]
    with (
        another_process("mine = writing.Writing(Path(sys.argv[1]))", tmp_path),
        pytest.raises(StageError, match="another program is at work"),
    ):
        writing.Writing.refuse_another(tmp_path)
    writing.Writing.refuse_another(tmp_path)


def test_the_lock_leaves_nothing_behind(tmp_path):
    first = writing.Writing.of(tmp_path)
    assert names(tmp_path / "status") == [".lock"]
    with writing.Writing.until_the_end():
        assert writing.Writing.of(tmp_path) is first
        inner = writing.Writing.of(tmp_path / "run")
    assert names(tmp_path / "run" / "status") == []
    assert names(tmp_path / "status") == [".lock"]
    again = writing.Writing.of(tmp_path / "run")
    assert again is not inner
    inner.release()  # once more changes nothing
    assert names(tmp_path / "run" / "status") == [".lock"]
    again.release()
    first.release()
    assert names(tmp_path / "status") == []


def test_a_lock_that_was_deleted_meanwhile_is_made_anew(tmp_path, monkeypatch):
    real, gone = writing._check, []

    def deleted_once(folder, descriptor):
        locked = real(folder, descriptor)
        if not gone:
            gone.append((folder / "status" / ".lock").unlink())
        return locked

    monkeypatch.setattr(writing, "_check", deleted_once)
    held = writing.Writing.of(tmp_path)
    assert names(tmp_path / "status") == [".lock"]
    body = (
        "refused = False\ntry:\n    writing.Writing(Path(sys.argv[1]))\n"
        "except Exception:\n    refused = True\nassert refused"
    )
    with another_process(body, tmp_path):
        held.release()


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(writing.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(writing.fcntl, "flock", unsupported)
    assert writing.Writing.of(tmp_path)
    assert "this file system has no locks" in caplog.text
    left = tmp_path / ".a.12.tmp"
    left.touch()
    files.write_text(tmp_path / "a", "text")
    assert names(tmp_path) == [".a.12.tmp", "a", "status"]  # perhaps somebody writes it


# What killed programs leave


def test_what_a_living_program_writes_stays_and_what_a_killed_one_left_goes(tmp_path):
    body = (
        "with files.atomic(Path(sys.argv[1])) as file, files.replacing(Path(sys.argv[2])) as new:\n"
        "    file.write_text('half'), (new / 'part').write_text('half')"
    )
    path, folder = tmp_path / "preds.csv", tmp_path / "run" / "export"
    with another_process(body, path, folder) as writer:
        files.write_text(path, "whole")
        assert writing.remove_leftovers(tmp_path) == []
        assert (len(names(tmp_path)), len(names(tmp_path / "run"))) == (3, 1)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    files.write_text(path, "whole again")
    assert names(tmp_path) == ["preds.csv", "run"]
    with files.replacing(folder) as fresh:
        assert names(fresh) == []
        (fresh / "model").write_text("new")
    assert names(tmp_path / "run") == ["export"]
    assert names(folder) == ["model"]


def test_a_process_number_that_repeats_brings_nothing_back(tmp_path):
    for suffix in ("tmp", "old"):
        left = tmp_path / f".run.{os.getpid()}.{suffix}"
        left.mkdir()
        (left / "weights.npz").write_text("of a killed program")
    (tmp_path / "run").mkdir()
    with files.replacing(tmp_path / "run") as fresh:
        (fresh / "config.yaml").write_text("seed: 1")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["config.yaml"]


def test_the_writer_of_a_folder_cleans_all_of_it_and_nothing_else(tmp_path):
    others = [".hidden.tmp", "notes.tmp", ".cache.old", ".a.xyz.tmp", "b.12.tmp"]
    for name in [*others, ".weights.npz.12.tmp"]:
        (tmp_path / "scan" / "heads").mkdir(parents=True, exist_ok=True)
        (tmp_path / "scan" / "heads" / name).touch()
    writing.Writing.of(tmp_path)
    assert names(tmp_path / "scan" / "heads") == sorted(others)


def test_a_folder_that_was_moved_away_and_not_replaced_comes_back(tmp_path):
    old = tmp_path / ".export.0a1b.old"
    old.mkdir()
    (old / "saved_model.pb").write_text("old")
    (tmp_path / ".export.0a1b.tmp").mkdir()
    writing.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["export"]
    assert names(tmp_path / "export") == ["saved_model.pb"]


# A folder in place of another


@pytest.fixture(params=["swapped", "renamed"])
def swaps(request, monkeypatch):
    """With and without a system call that exchanges two folders."""
    if request.param == "renamed":
        monkeypatch.setattr(files, "swap", lambda *_: False)
    elif not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("needs renameat2")


@pytest.mark.usefixtures("swaps")
def test_the_new_folder_stands_where_the_old_one_was(tmp_path):
    folder = tmp_path / "export"
    for text in ("one", "two"):
        with files.replacing(folder) as fresh:
            (fresh / text).write_text(text)
        assert names(folder) == [text]
        assert names(tmp_path) == ["export"]


@pytest.mark.usefixtures("swaps")
def test_a_failure_leaves_the_old_folder(tmp_path):
    def fail() -> None:
        with files.replacing(tmp_path / "export") as fresh:
            (fresh / "new").touch()
            raise KeyboardInterrupt

    with files.replacing(tmp_path / "export") as fresh:
        (fresh / "old").touch()
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == ["export"]
    assert names(tmp_path / "export") == ["old"]


def test_at_no_moment_is_there_no_folder(tmp_path, monkeypatch):
    folder, seen = tmp_path / "export", []
    if not writing.swap(tmp_path, tmp_path):
        pytest.skip("this file system does not exchange folders")
    for number in range(2):
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "rmdir", "unlink"):
                call = getattr(os, name)

                def noted(*given, call=call, **how):
                    seen.append(folder.exists())
                    call(*given, **how)
                    seen.append(folder.exists())

                patch.setattr(os, name, noted)
            with files.replacing(folder) as fresh:
                (fresh / str(number)).touch()
        if number == 0:
            seen.clear()
    assert seen
    assert all(seen)


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced: list[str] = []
    sync = writing.sync
    monkeypatch.setattr(files, "sync", lambda p: (synced.append(p.name), sync(p)))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (synced.append("renamed"), replace(a, b)))
    with files.replacing(tmp_path / "export") as fresh:
        (fresh / "variables").mkdir()
        (fresh / "variables" / "data").write_text("x")
    assert synced == [fresh.name, "data", "variables", "renamed", tmp_path.name]
    synced.clear()
    files.write_text(tmp_path / "a.txt", "x")
    assert [synced[0].endswith(".tmp"), *synced[1:]] == [True, "renamed", tmp_path.name]


# Deleting


def test_what_is_deleted_is_moved_away_first(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "scan"
    (folder / "ckpt").mkdir(parents=True)

    def refused(path, **_):
        assert not folder.exists()
        assert path.exists()

    with monkeypatch.context() as patch:
        patch.setattr(writing.shutil, "rmtree", refused)
        writing.remove(folder)
    assert "cannot be deleted completely" in caplog.text
    assert writing.remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_of_a_link_the_link_is_deleted(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "scan").symlink_to(tmp_path / "elsewhere")
    writing.remove(tmp_path / "scan")
    writing.remove(tmp_path / "not there")
    assert names(tmp_path) == ["elsewhere"]


# Room


def test_a_file_with_holes_gets_its_room_or_goes(tmp_path, monkeypatch):
    path = tmp_path / "features.npy"
    with path.open("wb") as file:
        file.truncate(3 * 2**20)
    assert path.stat().st_blocks * 512 < 2**20
    files.reserve(path)
    assert path.stat().st_blocks * 512 >= 3 * 2**20

    def full(*_):
        raise OSError(writing.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "posix_fallocate", full)
    with pytest.raises(StageError, match=r"3 MiB are needed there \(No space left on device\)"):
        files.reserve(path)
    assert names(tmp_path) == []


def test_room_is_looked_for_before_an_index_is_built(tmp_path, monkeypatch):
    files.check_room(tmp_path, 1)
    files.try_room(tmp_path, 1)
    assert names(tmp_path) == []
    usage = files.shutil.disk_usage(tmp_path)._replace(free=5 * 2**20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StageError, match=r"6 MiB are needed there \(5 MiB are free\). Make room"):
        files.try_room(tmp_path, 6 * 2**20)
