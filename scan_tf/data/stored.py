"""Decoded images: in memory, or in a file that is kept and read a few rows at a time.

A set that does not fit into memory is decoded once, into a folder of the cache that is named by the
content of its files. Later commands and runs find it there. Of the file no more is in memory than
the rows that are asked for: it is read, not mapped, so that the system does not count what it has
in store as this process's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scan_tf import machine
from scan_tf.config import DataConfig
from scan_tf.data.decoding import Limits
from scan_tf.data.image_set import Images
from scan_tf.data.images import allocate, fits_in_memory, read_fitted, report_unreadable
from scan_tf.errors import DataError
from scan_tf.storage import files, writing

IMAGES, FACTS = "images.npy", "facts.json"
# What is decoded otherwise than before gets another name.
_FORMAT = 1
_HEADER = 128
_BLOCK = 2**20
_log = logging.getLogger(__name__)

# What a set knows of its images beside the pixels, JSON-able.
Facts = dict[str, Any]


class Sink(Protocol):
    """What takes images as they are decoded."""

    def append(self, images: np.ndarray) -> None:
        """Take uint8 [M,S,S,3]."""


def load(
    config: DataConfig,
    count: int,
    size: int,
    fill: Callable[[Sink], Facts],
    *,
    content: Callable[[], Mapping[str, Any]],
) -> tuple[Images, Facts]:
    """Images in memory or in the cache, as `data.streaming` says.

    Args:
        config: the data section.
        count: how many images there are at most.
        size: their side S.
        fill: decodes them, in their order, and returns what else is known of them.
        content: what the result depends on beside `size`, JSON-able; asked for only where the
            images go to the cache.

    Returns:
        images: uint8 [N,S,S,3], N at most `count`.
        facts: as `fill` returned them.

    Raises:
        StageError: there is no room for the images.
        DataError: a file of the cache is damaged.
    """
    held = {"never": True, "always": False, "auto": fits_in_memory(count, size)}
    if held[config.streaming]:
        memory = _Memory(allocate(count, size))
        facts = fill(memory)
        return memory.images[: memory.count], facts
    known = {"format": _FORMAT, "size": size, **content()}
    folder = cache(config) / files.digest_of(known)[:32]
    if not folder.exists():
        with writing.one_at_a_time(folder):
            if not folder.exists():
                _fill(folder, count, size, fill)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / FACTS}: damaged ({error}). {_again(folder)}") from error
    return StoredImages(folder / IMAGES), facts


def _fill(folder: Path, count: int, size: int, fill: Callable[[Sink], Facts]) -> None:
    """Decode images into a folder of the cache."""
    needed = count * size * size * 3
    files.check_room(folder.parent, needed)
    _log.warning(
        "%s: %s images of %d pixels are decoded into it once, %s MiB. It can be deleted when no "
        "run is at work.",
        *(folder, f"{count:,}", size, f"{needed / 2**20:,.0f}"),
    )
    with files.replacing(folder) as fresh:
        with _written(fresh / IMAGES, size) as sink:
            facts = fill(sink)
        (fresh / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def of_files(
    paths: Sequence[Path],
    size: int,
    config: DataConfig,
    *,
    where: str,
    fitted: int | None = None,
) -> tuple[Images, list[Path], dict[Path, DataError]]:
    """Images of files, in memory or in the cache; a warning names those that cannot be read.

    Args:
        paths: the files.
        size: the side S of the images.
        config: the data section.
        where: what a message about files begins with.
        fitted: the side to which the centre squares are resized, of which the middle is cut out;
            None: `size`.

    Returns:
        images: uint8 [N,S,S,3] of those that can be read, in their order.
        kept: their files.
        skipped: the other files, and what is wrong with them.

    Raises:
        DataError: no file can be read, or, with `data.strict`, one cannot.
        StageError: there is no room for the images.
    """
    from tqdm import tqdm

    fitted = fitted or size
    middle = slice((fitted - size) // 2, (fitted - size) // 2 + size)

    def fill(sink: Sink) -> Facts:
        wrong = {}
        read = read_fitted(paths, fitted, limits=Limits(config.max_megapixels, config.decode_mib))
        bar = tqdm(read, total=len(paths), desc="reading images", disable=None, leave=False)
        for number, image in enumerate(bar):
            if isinstance(image, DataError):
                wrong[number] = str(image)
            else:
                sink.append(image[np.newaxis, middle, middle])
        return {"skipped": list(wrong.items())}

    def content() -> Mapping[str, Any]:
        known = {"files": digest_of_files(paths), "megapixels": config.max_megapixels}
        return known | ({"fitted": fitted} if fitted != size else {})

    images, facts = load(config, len(paths), size, fill, content=content)
    skipped = {paths[number]: DataError(why) for number, why in facts["skipped"]}
    errors = [*skipped.values()]
    report_unreadable(errors, len(paths), where=where, allowed=not config.strict)
    return images, [path for path in paths if path not in skipped], skipped


def cache(config: DataConfig) -> Path:
    """The folder of decoded images: `data.cache`, or `scan_tf/images` in the user's cache."""
    if config.cache is not None:
        return Path(config.cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scan_tf" / "images"


def digest_of_files(paths: Sequence[Path]) -> str:
    """A digest of the content of files, in their order."""

    def one(path: Path) -> str:
        content = hashlib.blake2b(digest_size=16)
        with contextlib.suppress(OSError), files.open_regular(path) as file:
            while block := file.read(_BLOCK):
                content.update(block)
        return content.hexdigest()  # of one that cannot be read, that of nothing

    with machine.threads() as pool:
        digests = list(pool.map(one, paths))
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


class StoredImages:
    """Images uint8 [N,S,S,3] in a `.npy` file, of which rows are read when they are asked for.

    Args:
        path: the file.

    Raises:
        DataError: it is missing, no file of such images, or shorter than it says.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path):
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            self._descriptor = descriptor
            head = io.BytesIO(os.pread(descriptor, _HEADER, 0))
            np.lib.format.read_magic(head)
            shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: damaged or missing ({error}). {_again(path.parent)}"
            ) from error
        self.shape: tuple[int, ...] = shape
        self._row = int(np.prod(shape[1:]))
        if dtype != np.uint8 or os.fstat(descriptor).st_size != _HEADER + len(self) * self._row:
            raise DataError(
                f"{path}: damaged: expected {list(shape)} bytes after the header, got "
                f"{os.fstat(descriptor).st_size - _HEADER:,} in all. {_again(path.parent)}"
            )

    def __len__(self) -> int:
        """The number of images, N."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Those at a slice, a mask bool [N] or indices int [M], uint8 [M,S,S,3]; of an int, one."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                found = np.empty((max(stop - start, 0), *self.shape[1:]), np.uint8)
                self._read(start, found)
                return found
            rows = np.arange(start, stop, step)
        chosen = self._checked(np.asarray(rows))
        found = np.empty((*chosen.shape, *self.shape[1:]), np.uint8)
        outs = found.reshape(-1, *self.shape[1:])
        for row, out in zip(chosen.reshape(-1).tolist(), outs, strict=True):
            self._read(row, out)
        return found

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        """Indices int of any shape, or of a mask bool [N], as they count from 0; IndexError."""
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of {len(self)} images has shape {list(rows.shape)}")
            return np.flatnonzero(rows)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"there is no image {rows.max()} among {len(self)}")
        return np.where(rows < 0, rows + len(self), rows).astype(np.int64)

    def _read(self, row: int, out: np.ndarray) -> None:
        """Fill `out` from the row on."""
        left, offset = out.reshape(-1).data, _HEADER + row * self._row
        while left:
            count = os.preadv(self._descriptor, [left], offset)
            if not count:
                raise DataError(f"{self.path}: ends before row {row}. {_again(self.path.parent)}")
            left, offset = left[count:], offset + count


class _Memory:
    """Takes images into an array."""

    def __init__(self, images: np.ndarray):
        self.images, self.count = images, 0

    def append(self, images: np.ndarray) -> None:
        self.images[self.count : self.count + len(images)] = images
        self.count += len(images)


class _File:
    """Takes images into a file, whose header is written at the end."""

    def __init__(self, file: Any):
        self.file, self.count = file, 0

    def append(self, images: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(images).data)
        self.count += len(images)


@contextlib.contextmanager
def _written(path: Path, size: int) -> Iterator[_File]:
    with open(path, "wb") as file:
        file.seek(_HEADER)
        sink = _File(file)
        yield sink
        file.flush()
        file.seek(0)
        shape = (sink.count, size, size, 3)
        facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, facts)
        assert file.tell() == _HEADER  # noqa: S101 - of our own making


def _again(folder: Path) -> str:
    return f"Delete {folder}; the next command decodes the images again."
