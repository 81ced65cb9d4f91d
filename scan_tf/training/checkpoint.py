"""Exact training state: every variable, in a fixed order, and the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.files import check_same, describe, read_npz, write_npz


def save_state(
    path: Path, variables: Sequence[Any], *, step: int, extra: Mapping[str, Any]
) -> None:
    """Write every variable, the step and JSON-able `extra` to `path`."""
    arrays = {f"{i:05d}": np.asarray(v) for i, v in enumerate(variables)}
    manifest = {"step": step, "extra": extra, "arrays": describe(arrays)}
    write_npz(path, arrays, manifest)


def restore_state(path: Path, variables: Sequence[Any]) -> tuple[int, dict[str, Any]]:
    """Assign what `save_state` wrote to `variables`; returns the step and `extra`.

    Raises:
        StageError: the file is damaged, or holds another number, shape or dtype of variables.
    """
    arrays, manifest = read_npz(path)
    current = {f"{i:05d}": np.asarray(v) for i, v in enumerate(variables)}
    check_same(path, {k: arrays[k] for k in sorted(arrays)}, current)
    for key, variable in zip(current, variables, strict=True):
        variable.assign(arrays[key])
    return int(manifest["step"]), dict(manifest["extra"])
