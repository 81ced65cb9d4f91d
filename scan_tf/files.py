"""Files and folders that are whole or not there: text, arrays with a manifest, rows of metrics.

Everything is written to a temporary file, synced and renamed, so that a killed program, or a
machine without power, leaves the old file or the new one. One process at a time writes in a folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import logging
import os
import platform
import re
import secrets
import shutil
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scan_tf.errors import StageError

_MANIFEST = "manifest"
# Of what is being written beside its place, and of what it replaces.
_TEMPORARY, _OLD = ".tmp", ".old"
_LEFT = re.compile(r"\.(.+)\.[0-9a-f]+(\.tmp|\.old)", re.DOTALL)
_LOCK = Path("status", ".lock")
_log = logging.getLogger(__name__)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write arrays and a JSON manifest atomically; the manifest also gets what they are."""
    text = json.dumps({**manifest, "arrays": describe(arrays)})
    with atomic(path) as temporary, open(temporary, "wb") as file:
        everything: dict[str, Any] = {_MANIFEST: np.array(text), **arrays}
        np.savez(file, **everything)


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_npz` wrote. Raises StageError when the file is missing or damaged."""
    try:
        # NumPy leaves a file open that it opened itself and cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
        manifest = json.loads(str(arrays.pop(_MANIFEST)))
        # A flipped bit in the table of contents can hide an array.
        if manifest.get("arrays", describe(arrays)) != describe(arrays):
            raise ValueError("it does not hold the arrays that it lists")
        return arrays, manifest
    except FileNotFoundError as error:
        raise StageError(f"{path}: no such file; the stage before has not finished.") from error
    # Damage shows in a dozen kinds of exceptions; all mean the same to a user.
    except Exception as error:
        raise StageError(f"{path}: damaged or not written by scan_tf ({error}).") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give an empty file beside `path`, which is renamed to `path` when the block succeeds.

    What is at `path` then is on the disk, and stays there when the power fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, which takes its place when the block succeeds.

    What stood there stays until then, and is gone afterwards; at every moment one of them stands
    there, where the file system can swap two folders.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder, is_folder=True) as fresh:
        yield fresh
        for below, _, names in os.walk(fresh):
            for name in names:
                _sync(Path(below, name))
            _sync(Path(below))
        if not folder.exists():
            os.replace(fresh, folder)
        elif not _swap(fresh, folder):
            old = fresh.with_suffix(_OLD)
            os.replace(folder, old)
            os.replace(fresh, folder)
            _delete(old)
        _sync(folder.parent)


@contextlib.contextmanager
def _temporary(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """An empty file or folder beside `path`, locked by this process, and gone afterwards."""
    remove_leftovers(path.parent, of=path.name)
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        temporary.mkdir() if is_folder else temporary.touch(exist_ok=False)
        try:
            descriptor = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process has just taken it for left over
        if _lock(descriptor) is not False and temporary.exists():
            break
        os.close(descriptor)
    try:
        yield temporary
    finally:
        os.close(descriptor)
        _delete(temporary)


def remove_leftovers(folder: Path, *, of: str = "") -> list[Path]:
    """Delete what killed programs have left of files and folders they were writing.

    What a living process writes is locked by it and stays; no process number is trusted, because
    they repeat.

    Args:
        folder: where to look.
        of: of which name; "": of all, in the folders below too.

    Returns:
        What has been deleted.
    """
    found = []
    for below, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            left, path = _LEFT.fullmatch(name), Path(below, name)
            if left is None or (of and left[1] != of) or _is_locked(path):
                continue
            whole = path.with_name(left[1])
            if left[2] == _OLD and not whole.exists():
                os.replace(path, whole)  # killed between the two renames
                continue
            _delete(path)
            found.append(path)
        folders[:] = [] if of else [name for name in folders if not _LEFT.fullmatch(name)]
    return found


class Writing:
    """The right to write in a folder, which one process has at a time, for as long as this lives.

    Args:
        folder: the folder.

    Raises:
        StageError: another process has it; the message names it.
    """

    # Of this process, which may ask more than once.
    _known: ClassVar[weakref.WeakValueDictionary[Path, Writing]] = weakref.WeakValueDictionary()

    @classmethod
    def of(cls, folder: Path) -> Writing:
        """The one that this process has already, or else a new one."""
        found = cls._known.get(folder.resolve())
        if found is None:
            found = cls._known[folder.resolve()] = cls(folder)
        return found

    def __init__(self, folder: Path):
        path = folder / _LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        locked = _lock(self._descriptor)
        if locked is None:
            _log.warning("%s: this file system has no locks; run one program at a time.", folder)
        if locked is False:
            by = os.read(self._descriptor, 1000).decode(errors="replace").strip()
            self._close()
            raise StageError(
                f"{folder}: another program is at work in it: {by or 'it does not say which'}. "
                "Wait until it has ended, or end it."
            )
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        text = f"process {os.getpid()} on {platform.node()} since {now}, {command}"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{text[:900]}\n".encode(errors="replace"), 0)
        remove_leftovers(folder)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed; False: another process has; None: no locks here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            return None
        raise
    return True


def _is_locked(path: Path) -> bool:
    """Whether a process has locked a file or folder; True where that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return exchange(here, os.fsencode(one), here, os.fsencode(other), both) == 0


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or folder: it is moved away at once, so that no part of it is ever left there.

    What cannot be deleted is named in a warning.
    """
    if path.is_symlink() or path.exists():
        away = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        os.replace(path, away)
        _delete(away)
        if away.is_symlink() or away.exists():
            _log.warning("%s: cannot be deleted completely; delete the rest of it yourself.", away)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Shape and dtype of every array, for a manifest."""
    return {k: [list(v.shape), str(v.dtype)] for k, v in arrays.items()}


def check_same(
    path: Path, stored: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> None:
    """Raise StageError unless both have the same names, shapes and dtypes."""
    there, here = describe(stored), describe(wanted)
    problems = [f"{k} is missing" for k in here if k not in there]
    problems += [f"{k} is surplus" for k in there if k not in here]
    problems += [
        f"{k} is {there[k]}, expected {here[k]}" for k in here if k in there and there[k] != here[k]
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise StageError(
            f"{path}: {len(problems)} of {len(here)} variables do not fit this config: {shown}. "
            "Use the config it was trained with, or another run directory."
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut off by a kill is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
