"""Exact training state: the step, and every variable under its name.

Two generations are kept, and none that is not finite. Format 1 had the variables without names, in
their order, and no format number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import Diverged, StageError
from scan_tf.storage.files import check_same, keep, not_finite, read_npz, write_npz

FORMAT = 2


def save_state(
    path: Path, variables: Mapping[str, Any], *, step: int, extra: Mapping[str, Any]
) -> None:
    """Write every variable under its name, the step and JSON-able `extra` to `path`.

    What was there becomes the generation before, `previous` beside it.

    Raises:
        Diverged: a variable is not finite; what was there stays.
    """
    arrays = {name: np.asarray(v) for name, v in variables.items()}
    if bad := not_finite(arrays):
        raise Diverged(
            f"{len(bad)} of {len(arrays)} variables are not finite at step {step}, such as "
            f"{bad[0]}; they are not saved."
        )
    manifest = {"format": FORMAT, "step": step, "extra": extra}
    keep(path, previous(path))
    write_npz(path, arrays, manifest)


def previous(path: Path) -> Path:
    """Where the generation before lies."""
    return path.with_name("previous.npz")


def good(path: Path) -> list[tuple[Path, int]]:
    """The generations that can be read, the latest first, and the step of each."""
    found = []
    for file in (path, previous(path)):
        with contextlib.suppress(StageError):
            found.append((file, int(read_npz(file)[1]["step"])))
    return found


def restore_state(path: Path, variables: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Assign what `save_state` wrote to the variables of the same names.

    Returns:
        The step, and `extra`.

    Raises:
        StageError: the file is damaged or of a later format, or a variable is missing, surplus or
            of another shape or dtype. Where the generation before is good, the message says so.
    """
    try:
        arrays, manifest = read_npz(path)
    except StageError as error:
        before = previous(path)
        if before not in [file for file, _ in good(path)]:
            raise
        raise StageError(
            f"{error} The checkpoint before it is good. To go on from there: mv {before} {path}"
        ) from error
    number = manifest.get("format", 1)
    if number > FORMAT:
        raise StageError(
            f"{path}: has format {number}; this version reads up to {FORMAT}. Use a newer one."
        )
    if number == 1:
        names = [*variables, *sorted(arrays)[len(variables) :]]
        arrays = dict(zip(names, (arrays[key] for key in sorted(arrays)), strict=False))
    check_same(path, arrays, {name: np.asarray(v) for name, v in variables.items()})
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return int(manifest["step"]), dict(manifest["extra"])
