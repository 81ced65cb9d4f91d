"""Files of a folder as one compact stream, cut into parts that are checked when they are read.

An archive is a folder: `manifest.json`, and parts named by their number and the start of their
SHA-256. Arrays of `.npz` files are stored byte plane by byte plane, which brings the exponents
together, and Huffman coded: weights shrink to 84 %, and searching for repetitions as well would
take 30 times as long for no gain. Parts depend on nothing but what is stored before and in them, so
two archives whose first files are equal share their first parts.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.files import atomic, write_text

FORMAT = 1
MANIFEST = "manifest.json"
# Which arrays of a file may be rounded to bfloat16.
Rounding = Callable[[Path, Mapping[str, np.ndarray]], Iterable[str]]


def write(
    root: Path, paths: Iterable[Path], folder: Path, *, rounding: Rounding, part_mib: float
) -> list[Path]:
    """Store files, in place of an older archive in the same folder.

    Args:
        root: the folder to which names are relative.
        paths: files below `root`: `.npz` without objects, or any other.
        folder: receives the manifest and the parts.
        rounding: names the float32 arrays of an `.npz` to round to bfloat16.
        part_mib: size in MiB of the parts; the last one is smaller.

    Returns:
        The files of the archive, the manifest first.

    Raises:
        ConfigError: `part_mib` is not positive.
        DataError: `folder` holds something else.
        StageError: an `.npz` is damaged.
    """
    size = round(part_mib * 2**20)
    if size < 1:
        raise ConfigError(f"--part-mib: must be greater than 0, got {part_mib}.")
    if folder.exists() and not _is_archive(folder):
        raise DataError(f"{folder}: holds something that is no pack. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, Any]] = []
    parts = []
    for number, data in enumerate(_cut(_encode_all(root, paths, rounding, files), size)):
        digest = hashlib.sha256(data).hexdigest()
        name = f"{number:03d}-{digest[:12]}.part"
        with atomic(folder / name) as temporary:
            temporary.write_bytes(data)
        parts.append({"name": name, "bytes": len(data), "sha256": digest})
    # Until now an older archive was complete, because parts are named by what is in them.
    manifest = {"format": FORMAT, "parts": parts, "files": files}
    write_text(folder / MANIFEST, json.dumps(manifest) + "\n")
    written = [folder / MANIFEST, *(folder / str(part["name"]) for part in parts)]
    for old in set(folder.iterdir()) - set(written):
        old.unlink()
    return written


def read(paths: Iterable[Path], root: Path) -> None:
    """Check all parts of an archive, then write its files below `root`.

    Args:
        paths: folders with the manifest and the parts, or these files, in any order.
        root: a new folder.

    Raises:
        DataError: a part is missing, damaged or of another format.
    """
    manifest, parts = _find(paths)
    try:
        _verify(manifest, parts)
        stream = _Stream([parts[part["name"]] for part in manifest["parts"]])
        for entry in manifest["files"]:
            _restore(entry, stream, root)
    except (LookupError, TypeError, ValueError, zlib.error) as error:
        raise DataError(f"{MANIFEST}: damaged ({error!r}). Copy or pack it again.") from error


def _encode_all(
    root: Path, paths: Iterable[Path], rounding: Rounding, files: list[dict[str, Any]]
) -> Iterator[bytes]:
    """The stream, piece by piece; `files` receives what is in it."""
    for path in paths:
        entry: dict[str, Any] = {"path": path.relative_to(root).as_posix()}
        files.append(entry)
        if path.suffix != ".npz":
            data = zlib.compress(path.read_bytes())
            entry["bytes"] = len(data)
            yield data
            continue
        arrays = _read_npz(path)
        rounded = set(rounding(path, arrays))
        entry["arrays"] = []
        for key in sorted(arrays):
            array = arrays[key]
            data = _encode(array.astype(ml_dtypes.bfloat16) if key in rounded else array)
            entry["arrays"].append(
                [key, array.dtype.str, list(array.shape), key in rounded, len(data)]
            )
            yield data


def _encode(array: np.ndarray) -> bytes:
    # Byte 0 of all values, then byte 1 of all, ...
    rows = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    planes = rows.reshape(-1, array.dtype.itemsize).T
    coder = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(planes.tobytes()) + coder.flush()


def _decode(data: bytes, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(dtype.itemsize, -1)
    if planes.shape[1] != math.prod(shape):
        raise ValueError(f"{planes.shape[1]} values for the shape {shape}")
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)


def _restore(entry: Mapping[str, Any], stream: _Stream, root: Path) -> None:
    name = PurePosixPath(entry["path"])
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{name} is outside of the folder")
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if "arrays" not in entry:
        path.write_bytes(zlib.decompress(stream.read(entry["bytes"])))
        return
    arrays: dict[str, Any] = {}
    for key, kind, shape, rounded, length in entry["arrays"]:
        stored = np.dtype(ml_dtypes.bfloat16 if rounded else kind)
        arrays[key] = _decode(stream.read(length), stored, shape).astype(kind)
    np.savez(path, **arrays)


def _find(paths: Iterable[Path]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The manifest, and the files by name."""
    files = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    manifests = [f for f in files if f.name == MANIFEST]
    if len(manifests) != 1:
        raise DataError(f"expected one {MANIFEST} among the files, got {len(manifests)}.")
    try:
        manifest = json.loads(manifests[0].read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{manifests[0]}: cannot be read or is damaged ({error!r}).") from error
    if not known:
        raise DataError(f"{manifests[0]}: no pack of format {FORMAT}. Pack the run again.")
    return manifest, {f.name: f for f in files}


def _verify(manifest: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Raise DataError with the names of all parts that are missing or damaged."""
    problems = []
    for part in manifest["parts"]:
        name = part["name"]
        if name not in files:
            problems.append(f"{name} is missing")
        elif hashlib.sha256(files[name].read_bytes()).hexdigest() != part["sha256"]:
            problems.append(f"{name} is damaged")
    if problems:
        count = f"{len(problems)} of {len(manifest['parts'])} parts"
        raise DataError(f"{count}: {'; '.join(problems)}. Copy them again.")


class _Stream:
    """Parts read as one file; few of them are in memory at a time."""

    def __init__(self, parts: Iterable[Path]):
        self._waiting = bytearray()
        self._parts = iter(parts)

    def read(self, count: int) -> bytes:
        while len(self._waiting) < count:
            part = next(self._parts, None)
            if part is None:
                raise ValueError("the parts end too early")
            self._waiting += part.read_bytes()
        data = bytes(self._waiting[:count])
        del self._waiting[:count]
        return data


def _cut(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in parts of `size`, the last one smaller."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)


def _is_archive(folder: Path) -> bool:
    """Whether nothing else is in a folder than an archive, or what was left of writing one."""
    ours = (MANIFEST, ".part", ".tmp")
    return folder.is_dir() and all(f.is_file() and f.name.endswith(ours) for f in folder.iterdir())


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {k: archive[k] for k in archive.files}
    # Damage shows in a dozen kinds of exceptions; all mean the same to a user.
    except Exception as error:
        raise StageError(f"{path}: damaged ({error}). Run its stage again first.") from error
