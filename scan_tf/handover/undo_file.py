"""The undo file of a sort: a line of JSON for every file, written before the file is made."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from scan_tf.errors import DataError, MissingDataError
from scan_tf.handover import sorted_file
from scan_tf.handover.sorted_file import Sorted
from scan_tf.storage.files import room, write_text

NAME = "sort-undo.jsonl"
_HEADER = {"scan_tf": "files made by scan-tf sort, to be taken back with: scan-tf sort --undo"}


@contextlib.contextmanager
def noting(path: Path) -> Iterator[Callable[[Sorted], None]]:
    """Give a function that notes a file, and has it written when it returns."""
    if not path.exists():
        write(path, [])
    with open(path, "a+b", buffering=0) as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":  # a line that a kill has cut off is none
            stream.write(b"\n")

        def note(file: Sorted) -> None:
            left = _line(dataclasses.asdict(file))
            with room(path):
                while left:  # a disk that is almost full takes a part
                    left = left[stream.write(left) :]

        yield note


def read(path: Path) -> list[Sorted]:
    """The files that were noted, each once.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no undo file.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file. Expected the {NAME} of a sort.")
    header, *lines = path.read_bytes().split(b"\n")
    if header + b"\n" != _line(_HEADER):
        raise DataError(f"{path}: is no undo file of scan-tf sort; nothing was done.")
    files: dict[str, Sorted] = {}
    for number, line in enumerate(lines, 2):
        try:
            tree = json.loads(line)
        except ValueError:
            continue  # cut off by a kill, before its file was made; or the end
        except RecursionError:
            tree = None
        try:
            file = sorted_file.from_dict(tree)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}:{number}: damaged ({error}); nothing was done.") from error
        files[file.place] = file
    return list(files.values())


def write(path: Path, files: Sequence[Sorted]) -> None:
    """Write an undo file anew."""
    lines = [_line(_HEADER), *(_line(dataclasses.asdict(file)) for file in files)]
    write_text(path, b"".join(lines).decode("ascii"))


def _line(tree: Mapping[str, object]) -> bytes:
    return json.dumps(tree).encode("ascii") + b"\n"
