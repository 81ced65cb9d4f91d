"""The journal of corrections: a file that only grows, a JSON object a line, on the disk at once.

The first line says what the corrections are of; every other has a number, `seq`, that is one more
than the one before it, and the time. What a kill or a power cut has left of a line that was being
written is dropped when the file is read again; damage anywhere else is refused, because what comes
after it could mean something else.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scan_tf.errors import StageError
from scan_tf.storage.writing import sync

FILE = "journal.jsonl"
FORMAT = 1

Entry = dict[str, Any]


class Journal:
    """The journal of a run; one process at a time has it open.

    Args:
        path: the file; it is made where there is none.
        of: what the corrections are of, JSON-able. A journal of something else is moved aside.

    Attributes:
        entries: all of them, in their order, without the first line.
        notes: what was dropped or moved aside, in words.

    Raises:
        StageError: it is damaged, of a later format, or cannot be written.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]):
        self.path, self.of = path, json.loads(json.dumps(of))
        self.entries: list[Entry] = []
        self.notes: list[str] = []
        self._descriptor = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            head = self._read()
            if head is not None and head["of"] != self.of:
                self._set_aside(head["of"])
                head = None
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if head is None:
                self._write({"journal": FORMAT, "seq": 0, "of": self.of})
                sync(path.parent)
        except OSError as error:
            self.close()
            raise StageError(f"{path}: cannot be read or written ({error}).") from error

    @property
    def seq(self) -> int:
        """The number of the last entry, 0 where there is none."""
        return len(self.entries)

    def append(self, entry: Mapping[str, Any]) -> int:
        """Add an entry, which is on the disk when this returns; its number.

        Raises:
            StageError: it could not be saved; the journal is as it was.
        """
        whole = {"seq": self.seq + 1, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}
        try:
            self._write(whole)
        except OSError as error:
            raise StageError(
                f"{self.path}: not saved ({error}). Make room and repeat it."
            ) from error
        self.entries.append(whole)
        return self.seq

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, entry: Entry) -> None:
        """One line, wholly or not at all."""
        before = os.fstat(self._descriptor).st_size
        left = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise

    def _read(self) -> Entry | None:
        """Fill `entries`, cut off a torn end, and return the first line; None: there is none."""
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        lines = content.split(b"\n")
        torn = lines.pop()
        parsed = [_parsed(line, number) for number, line in enumerate(lines)]
        if parsed and parsed[-1] is None:  # blocks that a power cut has left without content
            torn = lines.pop() + b"\n" + torn
            parsed.pop()
        if None in parsed:
            raise StageError(
                f"{self.path}: damaged in line {parsed.index(None) + 1} of {len(parsed)}. Take it "
                "from a copy, or move it away to begin without corrections."
            )
        if torn:
            self._cut(len(content) - len(torn))
            self.notes.append(
                f"{self.path}: its last line, of {len(torn)} bytes, was never finished and is "
                "dropped; everything before it is there."
            )
        if not parsed:
            return None
        head, *entries = [entry for entry in parsed if entry is not None]
        if head.get("journal") != FORMAT or "of" not in head:
            raise StageError(
                f"{self.path}: expected a journal of format {FORMAT}, got "
                f"{head.get('journal')!r}. Use the scan_tf that wrote it, or move it away."
            )
        self.entries = entries
        return head

    def _cut(self, size: int) -> None:
        with open(self.path, "r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def _set_aside(self, of: Any) -> None:
        """Rename a journal of something else, never over another."""
        number = 1
        while (away := self.path.with_name(f"journal-{number}.jsonl")).exists():
            number += 1
        os.rename(self.path, away)
        sync(self.path.parent)
        self.notes.append(
            f"{len(self.entries)} corrections were made to another clustering or to other images "
            f"({_described(of)}) and do not fit this one ({_described(self.of)}). They are kept in "
            f"{away}; a new journal is begun."
        )
        self.entries = []


def _parsed(line: bytes, number: int) -> Entry | None:
    """A line; None where it is not the one with that number."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and entry.get("seq") == number else None


def _described(of: Any) -> str:
    """What corrections are of, in a few words."""
    if not isinstance(of, dict):
        return "unknown"
    return f"{of.get('stage')}, weights {str(of.get('weights'))[:8]}, {of.get('images')} images"
