"""Arrays on disk: exact training state, and the weights that one stage hands to the next.

Both are `.npz` files with a JSON manifest inside, written to a temporary file and renamed, so
that a killed program leaves the old file or the new one. Variables are explicit ordered lists:
Keras' object-based checkpoints silently lose layers held in Python lists.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from scan_tf.errors import StageError

_MANIFEST = "manifest"


def save_state(
    path: Path, variables: Sequence[Any], *, step: int, extra: Mapping[str, Any]
) -> None:
    """Write every variable, the step and JSON-able `extra` to `path`."""
    arrays = {f"{i:05d}": np.asarray(v) for i, v in enumerate(variables)}
    manifest = {"step": step, "extra": extra, "arrays": _describe(arrays)}
    write_npz(path, arrays, manifest)


def restore_state(path: Path, variables: Sequence[Any]) -> tuple[int, dict[str, Any]]:
    """Assign what `save_state` wrote to `variables`; returns the step and `extra`.

    Raises:
        StageError: the file is damaged, or holds another number, shape or dtype of variables.
    """
    arrays, manifest = read_npz(path)
    current = {f"{i:05d}": np.asarray(v) for i, v in enumerate(variables)}
    _check_same(path, {k: arrays[k] for k in sorted(arrays)}, current)
    for key, variable in zip(current, variables, strict=True):
        variable.assign(arrays[key])
    return int(manifest["step"]), dict(manifest["extra"])


def save_weights(
    path: Path, networks: Mapping[str, keras.Model], *, extra: Mapping[str, Any] | None = None
) -> None:
    """Write the variables of `networks` under `network/variable` names."""
    arrays = {k: np.asarray(v) for k, v in named_variables(networks).items()}
    write_npz(path, arrays, {"extra": dict(extra or {}), "arrays": _describe(arrays)})


def load_weights(path: Path, networks: Mapping[str, keras.Model]) -> dict[str, Any]:
    """Assign the variables of `networks` from `path`; networks not asked for are left there.

    Returns:
        The `extra` mapping given to `save_weights`.

    Raises:
        StageError: the file is missing or damaged, or a variable is missing, surplus or of
            another shape.
    """
    arrays, manifest = read_npz(path)
    wanted = named_variables(networks)
    stored = {k: v for k, v in arrays.items() if k.split("/")[0] in networks}
    _check_same(path, stored, {k: np.asarray(v) for k, v in wanted.items()})
    for key, variable in wanted.items():
        variable.assign(arrays[key])
    return dict(manifest["extra"])


def named_variables(networks: Mapping[str, keras.Model]) -> dict[str, Any]:
    """Variables by `network/path-inside-the-network`, in a fixed order."""
    return {
        f"{name}/{variable.path.split('/', 1)[-1]}": variable
        for name, network in networks.items()
        for variable in network.variables
    }


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write arrays and a JSON manifest atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        everything: dict[str, Any] = {_MANIFEST: np.array(json.dumps(manifest)), **arrays}
        np.savez(file, **everything)


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_npz` wrote. Raises StageError when the file is missing or damaged."""
    try:
        # NumPy leaves a file open that it opened itself and cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
        return arrays, json.loads(str(arrays.pop(_MANIFEST)))
    except FileNotFoundError as error:
        raise StageError(f"{path}: no such file; the stage before has not finished.") from error
    # Damage shows in a dozen kinds of exceptions; all mean the same to a user.
    except Exception as error:
        raise StageError(f"{path}: damaged or not written by scan_tf ({error}).") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _describe(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    return {k: [list(v.shape), str(v.dtype)] for k, v in arrays.items()}


def _check_same(
    path: Path, stored: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> None:
    there, here = _describe(stored), _describe(wanted)
    problems = [f"{k} is missing" for k in here if k not in there]
    problems += [f"{k} is surplus" for k in there if k not in here]
    problems += [
        f"{k} is {there[k]}, expected {here[k]}" for k in here if k in there and there[k] != here[k]
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise StageError(
            f"{path}: {len(problems)} of {len(here)} variables do not fit this config: {shown}. "
            "Use the config it was trained with, or another run directory."
        )
