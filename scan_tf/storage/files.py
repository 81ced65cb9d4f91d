"""Files and folders that are whole or not there: text, arrays with a manifest, rows of metrics.

Everything is written to a temporary file, synced and renamed, so that a killed program, or a
machine without power, leaves the old file or the new one. One process at a time writes in a folder.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scan_tf.errors import ScanError, StageError
from scan_tf.storage.writing import OLD, delete, swap, sync, temporary

_MANIFEST = "manifest"
# A full disk, a full quota, and a file that is larger than one may be.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write arrays and a JSON manifest atomically; the manifest also gets what they are."""
    text = json.dumps({**manifest, "arrays": describe(arrays)})
    size = len(text) + sum(array.nbytes for array in arrays.values())
    with atomic(path, size=size) as fresh, open(fresh, "wb") as file:
        everything: dict[str, Any] = {_MANIFEST: np.array(text), **arrays}
        np.savez(file, **everything)


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write one array atomically, as NumPy has it."""
    with atomic(path, size=array.nbytes) as fresh, open(fresh, "wb") as file:
        np.save(file, array, allow_pickle=False)


def read_npz(path: Path, *, way: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_npz` wrote.

    Raises StageError when the file is missing or damaged; `way` then says what restores it.
    """
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
        text = f"{path}: damaged or not written by scan_tf ({error}). {way}".rstrip()
        raise StageError(text) from error


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names of those that hold a NaN or an infinity."""
    return [
        name
        for name, array in arrays.items()
        if array.dtype.kind not in "OSUV" and not np.isfinite(array).all()
    ]


def keep(path: Path, copy: Path) -> None:
    """Have `copy` hold what `path` does, whatever `path` becomes; nothing where there is none."""
    if path.exists():
        with atomic(copy) as fresh:
            fresh.unlink()
            try:
                os.link(path, fresh)  # sound, because files are replaced and never changed
            except OSError:  # no hard links here
                shutil.copy(path, fresh)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8; names that are no UTF-8 go out as they came in."""
    with atomic(path) as fresh:
        fresh.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table of comma-separated values atomically, in UTF-8.

    Names of files need not be valid UTF-8: their bytes go out as they came in.
    """
    with (
        atomic(path) as fresh,
        open(fresh, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@contextlib.contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A file opened to be read; a pipe or a device, which might never end, is an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        yield file


@contextlib.contextmanager
def atomic(path: Path, *, size: int = 0) -> Iterator[Path]:
    """Give an empty file beside `path`, which is renamed to `path` when the block succeeds.

    What is at `path` then is on the disk, and stays there when the power fails.

    Args:
        path: the file.
        size: bytes that will be written, as far as that is known.

    Raises:
        StageError: there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary(path) as fresh, room(fresh, size):
        yield fresh
        sync(fresh)
        os.replace(fresh, path)
        sync(path.parent)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """`atomic` for a path that a user names: what is no file there stays what it is.

    A link is followed; a pipe or a device is written into.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    with atomic(Path(os.path.realpath(path))) as temporary:
        yield temporary


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, which takes its place when the block succeeds.

    What stood there stays until then, and is gone afterwards; at every moment one of them stands
    there, where the file system can swap two folders.

    Raises:
        StageError: there is no room for it.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary(folder, is_folder=True) as fresh, room(fresh):
        yield fresh
        for below, _, names in os.walk(fresh):
            for name in names:
                sync(Path(below, name))
            sync(Path(below))
        if not folder.exists():
            os.replace(fresh, folder)
        elif not swap(fresh, folder):
            old = fresh.with_suffix(OLD)
            os.replace(folder, old)
            os.replace(fresh, folder)
            delete(old)
        sync(folder.parent)


@contextlib.contextmanager
def room(place: Path, size: int = 0) -> Iterator[None]:
    """Name the folder and the size where there is no room for what the block writes.

    Args:
        place: the file or folder that is written.
        size: bytes that it takes, as far as that is known.

    Raises:
        StageError: there is no room, whoever has noticed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ScanError) or not lacks_room(error):
            raise
        raise no_room(error, place, size) from error


def lacks_room(error: BaseException) -> bool:
    """Whether an error, of Python or of a library, is that of a file system without room."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    text = str(error)
    # NumPy's `tofile` has no number and no reason.
    cut_off = isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", text)
    return bool(cut_off) or any(os.strerror(number) in text for number in _NO_ROOM)


def no_room(error: BaseException, place: Path | None = None, size: int = 0) -> StageError:
    """What to tell of an error for which `lacks_room` is true; as `room`."""
    known = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if isinstance(known, str) and (place is None or not place.exists()):
        place = Path(known)
    if place is None:
        text = str(error).partition("\n")[0]
        return StageError(f"no room: {text}. Make room and run the same command again.")
    folder = next(above for above in place.absolute().parents if above.is_dir())
    free, written = shutil.disk_usage(folder).free, size or _bytes_of(place)
    reason = next(
        (os.strerror(n) for n in _NO_ROOM if os.strerror(n) in str(error)), "no room there"
    )
    needed = _amount(written) if size else f"more than {_amount(written)}"
    return _no_room(folder, needed, f"{reason}; {_amount(free)} are free")


def reserve(path: Path) -> None:
    """Give a file with holes all its room: what is mapped into memory would end in a SIGBUS.

    Raises:
        StageError: there is no room, and no file any more.
    """
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            path.unlink()
            raise _no_room(path.parent, _amount(size), str(error.strerror)) from error


def check_room(folder: Path, size: int) -> None:
    """Raise StageError where the file system of a folder has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise _no_room(folder, _amount(size), f"{_amount(free)} are free")


def try_room(folder: Path, size: int) -> None:
    """Take so much room for a moment; raise StageError where this user has none."""
    check_room(folder, size)
    with temporary(folder / "room") as fresh, room(fresh, size):
        os.truncate(fresh, size)
        reserve(fresh)


def _no_room(folder: Path, needed: str, reason: str) -> StageError:
    return StageError(
        f"{folder}: {needed} are needed there ({reason}). Make room and run the same command again."
    )


def _amount(size: int) -> str:
    """Bytes as they are read."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def _bytes_of(place: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    found = [place] if place.is_file() else place.rglob("*")
    return sum(path.stat().st_size for path in found if path.is_file())


def digest_of(tree: Any) -> str:
    """SHA-256, 64 digits, of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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
    """The rows of a `metrics.jsonl`; a line that was cut off by a kill, or damaged, is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) else []
    return rows
