"""What the heads of image files say: their kinds, sizes and modes, without their pixels."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from scan_tf.data import decoding

# Files that are looked at, evenly through a folder of more.
_LOOKED_AT = 1000


@dataclasses.dataclass(frozen=True)
class Heads:
    """What the heads of some files say.

    Attributes:
        text: their kinds, sizes and modes, in a line.
        side: the median of their shorter sides, in pixels.
    """

    text: str
    side: int


def look(paths: Sequence[str | Path]) -> Heads | None:
    """What the heads of files say; None where no file can be read.

    Args:
        paths: of image files; of many a part is looked at, and the line says so.
    """
    step = max(1, -(-len(paths) // _LOOKED_AT))
    kinds, modes = collections.Counter[str](), collections.Counter[str]()
    sizes = []
    for path in paths[::step]:
        try:
            kind, mode, size = decoding.head_of(path)
        except Exception:  # told of when it is read
            continue
        kinds[kind] += 1
        modes[mode] += 1
        sizes.append(size)
    if not sizes:
        return None
    sizes.sort(key=lambda size: size[0] * size[1])
    low, middle, high = (sizes[i] for i in (0, len(sizes) // 2, -1))
    text = f"files: {_counts(kinds)}; {low[0]:,} x {low[1]:,} pixels"
    if low != high:
        text += f" to {high[0]:,} x {high[1]:,}, half of them up to {middle[0]:,} x {middle[1]:,}"
    text += f"; {_counts(modes)}"
    if step > 1:
        text += f" (of {len(sizes):,} files that were looked at)"
    return Heads(text, int(statistics.median(map(min, sizes))))


def _counts(counted: collections.Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counted.most_common())
