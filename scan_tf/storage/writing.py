"""Who writes in a folder, and what killed programs have left there.

One process at a time has the right to write in a run directory. What is being written lies beside
its place under a name of its own, locked by who writes it: what nobody has locked is left over.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import platform
import re
import secrets
import shutil
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from scan_tf.errors import StageError

# Of what is being written beside its place, and of what it replaces.
_TEMPORARY, OLD = ".tmp", ".old"
_LEFT = re.compile(r"\.(.+)\.[0-9a-f]+(\.tmp|\.old)", re.DOTALL)
_LOCK = Path("status", ".lock")
_log = logging.getLogger(__name__)


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

    @classmethod
    def refuse_another(cls, folder: Path) -> None:
        """Raise StageError where another process has it; nothing is written."""
        if folder.resolve() not in cls._known:
            with contextlib.suppress(OSError):  # `Run.claim` tells where nothing can be written
                descriptor = os.open(folder / _LOCK, os.O_RDONLY)
                try:
                    _check(folder, descriptor)
                finally:
                    os.close(descriptor)

    @classmethod
    @contextlib.contextmanager
    def until_the_end(cls) -> Iterator[None]:
        """A context with which what was asked for within ends, whoever still holds it."""
        before = {*cls._known}
        try:
            yield
        finally:
            for folder, held in [*cls._known.items()]:
                if folder not in before:
                    held.release()

    def __init__(self, folder: Path):
        path = folder / _LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                locked = _check(folder, descriptor)
            except StageError:
                os.close(descriptor)
                raise
            if not locked or _is_at(path, descriptor):
                break
            os.close(descriptor)  # who had it has just deleted it
        if locked is None:
            _log.warning("%s: this file system has no locks; run one program at a time.", folder)
        self._release = weakref.finalize(self, _release, path, descriptor)
        self._folder = folder.resolve()
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        text = f"process {os.getpid()} on {platform.node()} since {now}, {command}"
        with contextlib.suppress(OSError):  # on a full disk; it is locked all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{text[:900]}\n".encode(errors="replace"), 0)
        remove_leftovers(folder)

    def release(self) -> None:
        """Give the right back."""
        self._known.pop(self._folder, None)
        self._release()


def _release(path: Path, descriptor: int) -> None:
    """Delete the file of a lock, while it is locked, and unlock it."""
    with contextlib.suppress(OSError):
        if _is_at(path, descriptor):
            path.unlink()
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def temporary(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """An empty file or folder beside `path`, locked by this process, and gone afterwards."""
    remove_leftovers(path.parent, of=path.name)
    while True:
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        fresh.mkdir() if is_folder else fresh.touch(exist_ok=False)
        try:
            descriptor = os.open(fresh, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process has just taken it for left over
        if _lock(descriptor) is not False and fresh.exists():
            break
        os.close(descriptor)
    try:
        yield fresh
    finally:
        os.close(descriptor)
        delete(fresh)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Processes that are about to make the same file or folder come one after the other.

    Whoever has waited looks again whether it is there. Without locks nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _lock(descriptor) is False:
            _log.warning("%s: another program is making it; waiting until it has ended.", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _release(lock, descriptor)


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
            if left[2] == OLD and not whole.exists():
                os.replace(path, whole)  # killed between the two renames
                continue
            delete(path)
            found.append(path)
        folders[:] = [] if of else [name for name in folders if not _LEFT.fullmatch(name)]
    return found


def remove(path: Path) -> None:
    """Delete a file or folder: it is moved away at once, so that no part of it is ever left there.

    What cannot be deleted is named in a warning.
    """
    if path.is_symlink() or path.exists():
        away = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        os.replace(path, away)
        delete(away)
        if away.is_symlink() or away.exists():
            _log.warning("%s: cannot be deleted completely; delete the rest of it yourself.", away)


def swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return exchange(here, os.fsencode(one), here, os.fsencode(other), both) == 0


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a file or folder, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _check(folder: Path, descriptor: int) -> bool | None:
    """Lock the file of a folder; None: there are no locks. Raises StageError naming who has it."""
    locked = _lock(descriptor)
    if locked is False:
        by = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        raise StageError(
            f"{folder}: another program is at work in it: {by or 'it does not say which'}. "
            "Wait until it has ended, or end it."
        )
    return locked


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
