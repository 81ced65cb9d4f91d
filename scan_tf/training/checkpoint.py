"""Exact training state: the step, and every variable under its name.

Format 1 had the variables without names, in their order, and no format number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import StageError
from scan_tf.files import check_same, read_npz, write_npz

FORMAT = 2


def save_state(
    path: Path, variables: Mapping[str, Any], *, step: int, extra: Mapping[str, Any]
) -> None:
    """Write every variable under its name, the step and JSON-able `extra` to `path`."""
    arrays = {name: np.asarray(v) for name, v in variables.items()}
    manifest = {"format": FORMAT, "step": step, "extra": extra}
    write_npz(path, arrays, manifest)


def restore_state(path: Path, variables: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Assign what `save_state` wrote to the variables of the same names.

    Returns:
        The step, and `extra`.

    Raises:
        StageError: the file is damaged or of a later format, or a variable is missing, surplus or
            of another shape or dtype.
    """
    arrays, manifest = read_npz(path)
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
