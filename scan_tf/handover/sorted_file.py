"""One file of a sort: made whole or not at all, never over another, and taken back."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from scan_tf.errors import DataError
from scan_tf.storage.files import room

Action = Literal["copy", "symbolic", "hard"]
ACTIONS: tuple[Action, ...] = ("copy", "symbolic", "hard")
# File systems keep times to two seconds at worst.
_TOLERANCE_NS = 2 * 10**9


@dataclasses.dataclass(frozen=True)
class Sorted:
    """A file to be made, or that was made.

    Attributes:
        source: the original, an absolute path.
        place: path below the target, with slashes.
        action: how it is made.
        size: of the original in bytes, when it was noted.
        mtime_ns: of the original, when it was noted.
    """

    source: str
    place: str
    action: Action
    size: int
    mtime_ns: int

    def __post_init__(self) -> None:
        """Refuse what would reach out of the target. Raises ValueError."""
        parts = PurePosixPath(self.place).parts
        if len(parts) != 2 or ".." in parts or "/" in parts or self.action not in ACTIONS:
            raise ValueError(f"expected FOLDER/FILE, got {self.place!r}, {self.action!r}")
        if b"\0" in os.fsencode(self.place + self.source):
            raise ValueError(f"expected the names of files, got {self.place!r}, {self.source!r}")

    @classmethod
    def of(cls, source: Path, place: str, action: Action) -> Sorted:
        """One to be made of an original. Raises OSError where that cannot be looked at."""
        found = source.stat()
        return cls(str(source), place, action, found.st_size, found.st_mtime_ns)

    def make(self, target: Path) -> None:
        """Make it, with its folder.

        Raises:
            DataError: it is there already, or the file system has no such links.
        """
        path = target / self.place
        path.parent.mkdir(exist_ok=True)
        try:
            if self.action == "symbolic":
                os.symlink(self.source, path)
            elif self.action == "hard":
                os.link(os.path.realpath(self.source), path)
            else:
                self._copy(target)
        except FileExistsError as error:
            raise DataError(f"{path}: is there already and stays as it is.") from error
        except OSError as error:
            if self.action == "copy":
                raise
            other = "symbolic" if self.action == "hard" else "hard"
            raise DataError(
                f"{path}: no {self.action} link can be made here ({error.strerror}). "
                f"Try --link {other}, or --copy."
            ) from error

    def clear(self, target: Path) -> None:
        """Remove what a killed program left of the making."""
        self.temporary(target).unlink(missing_ok=True)

    def temporary(self, target: Path) -> Path:
        """Where a copy is made before it appears."""
        digest = hashlib.sha256(os.fsencode(self.place)).hexdigest()[:16]
        return (target / self.place).with_name(f".{digest}.sorting")

    def to_be_kept(self, target: Path) -> str:
        """Why the file, which is there, is not to be removed; "" where it may be."""
        path, source = target / self.place, Path(self.source)
        if self.action == "symbolic":
            same = path.is_symlink() and os.readlink(path) == self.source
            return "" if same else "is another file now"
        if path.is_symlink() or not path.is_file():
            return "is another file now"
        if not source.is_file():
            return "is the last copy: the original is gone"
        if self.action == "hard":
            return "" if path.samefile(source) else "is another file now"
        found = path.stat()
        late = abs(found.st_mtime_ns - self.mtime_ns) > _TOLERANCE_NS
        return "has been changed since" if late or found.st_size != self.size else ""

    def _copy(self, target: Path) -> None:
        path, temporary = target / self.place, self.temporary(target)
        try:
            with room(temporary, self.size):
                shutil.copy2(self.source, temporary)
            try:
                os.link(temporary, path)  # unlike a renaming, it replaces nothing
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                if os.path.lexists(path):
                    raise FileExistsError(str(path)) from None
                os.rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def from_dict(tree: dict[str, Any]) -> Sorted:
    """The file that a line of the undo file tells of. Raises ValueError for anything else."""
    kinds = {"source": str, "place": str, "action": str, "size": int, "mtime_ns": int}
    if set(tree) != set(kinds) or not all(type(tree[k]) is kind for k, kind in kinds.items()):
        raise ValueError(f"expected {', '.join(kinds)}, got {', '.join(map(str, tree))}")
    return Sorted(**tree)
