"""Which files of a folder are images, and what is left out of it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import glob
import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scan_tf.errors import DataError, MissingDataError

_JPEG, _TIFF = (".jpg", ".jpeg", ".jpe", ".jfif"), (".tif", ".tiff")
SUFFIXES = frozenset({*_JPEG, *_TIFF, ".png", ".webp", ".bmp", ".gif", ".avif", ".jp2"})
# Read where the package pillow-heif is installed.
_HEIF = frozenset({".heic", ".heif"})
# Images of kinds that are not read, of which a folder that holds them should be told.
_CAMERAS = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2")
_DRAWINGS = (".eps", ".ico", ".pdf", ".psd", ".svg", ".xcf")
_OTHERS = (".dcm", ".exr", ".fits", ".hdr", ".j2k", ".jxl", ".pbm", ".pcx", ".pgm", ".ppm", ".tga")
_UNREAD = frozenset({*_CAMERAS, *_DRAWINGS, *_OTHERS})
# Paths that are named of each kind that is left out.
_NAMED = 3
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies in folders.

    Attributes:
        files: the images, sorted.
        left_out: what may have been meant as images and is not among them, and why.
    """

    files: list[Path]
    left_out: tuple[tuple[Path, str], ...]

    def report(self, *, where: str = "", allowed: bool = True) -> None:
        """Warn of what was left out.

        Raises:
            DataError: there is such, and it is not `allowed`.
        """
        if not self.left_out:
            return
        kinds = collections.Counter(why for _, why in self.left_out)
        lines = []
        for why, count in kinds.most_common():
            names = [str(path) for path, reason in self.left_out if reason == why]
            more = f", and {count - _NAMED} more" if count > _NAMED else ""
            lines.append(f"{count} {why}: {', '.join(names[:_NAMED])}{more}")
        text = "\n  ".join([f"{where}left out:", *lines])
        if not allowed:
            raise DataError(f"{text}\nRemove them, or set data.strict: false to go on without.")
        _log.warning("%s", text)


def list_images(paths: Iterable[str | Path]) -> list[Path]:
    """The files of `listing`; raises as it does."""
    return listing(paths).files


def listing(paths: Iterable[str | Path]) -> Listing:
    """All image files among `paths`, folders searched with their sub-folders, sorted, once each.

    A file is an image by its extension, in upper or lower case; hidden files and folders are left
    out, links to folders are followed. A file that is named itself is taken whatever its extension.
    What is no path may be a pattern, such as `photos/**/*.jpg`; of the files that it matches the
    images are taken. Left out and told of are folders that may not be read, images of kinds that
    are not read, and run directories.

    Raises:
        MissingDataError: a path does not exist, and matches nothing.
    """
    found, left_out = set[Path](), list[tuple[Path, str]]()
    for path in map(Path, paths):
        if path.is_dir():
            found.update(_walk(path, left_out))
        elif path.exists():
            found.add(path)
        else:
            found.update(_matches(path, left_out))
    return Listing(sorted(found), tuple(dict.fromkeys(left_out)))


def _matches(pattern: Path, left_out: list[tuple[Path, str]]) -> Iterator[Path]:
    """The images that a pattern matches, and those in folders that it matches."""
    matches = sorted(glob.glob(str(pattern), recursive=True))
    if not matches:
        raise MissingDataError(f"{pattern}: no such file or folder.")
    for match in map(Path, matches):
        if match.is_dir():
            yield from _walk(match, left_out)
        elif _is_image(match.name):
            yield match


def _walk(root: Path, left_out: list[tuple[Path, str]]) -> Iterator[Path]:
    visited: set[str] = set()

    def note(error: OSError) -> None:
        left_out.append((Path(error.filename or root), "that cannot be read as a folder"))

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=note):
        # A link to a folder above would be followed for ever.
        if (real := os.path.realpath(folder)) in visited:
            subfolders.clear()
            continue
        visited.add(real)
        runs = [s for s in subfolders if _is_run(Path(folder, s))]
        left_out += [(Path(folder, s), "run directory of scan_tf") for s in runs]
        subfolders[:] = sorted(s for s in subfolders if s[0] != "." and s not in runs)
        for file in files:
            if file[0] == ".":
                continue
            if _is_image(file):
                yield Path(folder, file)
            elif (suffix := os.path.splitext(file)[1].lower()) in _UNREAD | _HEIF:
                plugin = " (pip install pillow-heif)" if suffix in _HEIF else ""
                left_out.append((Path(folder, file), f"of the kind {suffix}, not read{plugin}"))


def _is_image(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES or (suffix in _HEIF and _reads_heif())


@functools.cache
def _reads_heif() -> bool:
    """Whether the plug-in is there; it is made known to Pillow then."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def _is_run(folder: Path) -> bool:
    """Whether the pictures in a folder are those that a run has drawn."""
    # Of a folder that may not be looked into nothing is known, and nothing is raised.
    return os.path.isfile(folder / "config.yaml") and os.path.isdir(folder / "status")
