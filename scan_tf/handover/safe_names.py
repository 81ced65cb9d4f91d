"""Names of folders and files that every file system takes, and that differ from one another."""

from __future__ import annotations

import collections
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

# Bytes of a name; file systems take 255, and there is something to add.
_LONGEST = 200
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
# Devices of Windows, whatever their suffix.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def of_folder(name: str) -> str:
    """A folder's name for a text, which may be empty, hold slashes or begin with a dot."""
    text = "".join(c if c.isprintable() else "_" for c in unicodedata.normalize("NFC", name))
    text = _FORBIDDEN.sub("_", text).strip(" .")
    if not text or _DEVICES.match(text):
        text = f"_{text}"
    return _shortened(text)


def different(names: Iterable[str]) -> list[str]:
    """The names, those that differ from an earlier one by their case at most with ` (2)` and on."""
    taken, found = set[str](), []
    for name in names:
        stem, suffix = os.path.splitext(name)
        number, free = 1, name
        while free.casefold() in taken:
            number += 1
            free = f"{stem} ({number}){suffix}"
        taken.add(free.casefold())
        found.append(free)
    return found


def of_files(paths: Sequence[str]) -> list[str]:
    """Names in one folder for files of several: their own, those of their folders before it.

    `2023/a.png` and `2024/a.png` become `2023__a.png` and `2024__a.png`; a name that only one has
    stays as it is.
    """
    own = [PurePath(path).name for path in paths]
    count = collections.Counter(name.casefold() for name in own)
    names = [
        name if count[name.casefold()] == 1 else "__".join(_parts(path))
        for name, path in zip(own, paths, strict=True)
    ]
    return different(map(_shortened, names))


def _parts(path: str) -> list[str]:
    pure = PurePath(path)
    return [part for part in pure.parts if part not in (pure.anchor, "..")]


def _shortened(name: str) -> str:
    """A name of at most `_LONGEST` bytes; what is cut off stands in it as a digest."""
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST:
        return name
    stem, suffix = os.path.splitext(name)
    suffix = suffix if len(os.fsencode(suffix)) <= 16 else ""
    digest = hashlib.sha256(raw).hexdigest()[:8]
    while len(os.fsencode(f"{stem}-{digest}{suffix}")) > _LONGEST:
        stem = stem[:-1]
    return f"{stem}-{digest}{suffix}"
