"""Files and folders that are whole or not there: text, arrays with a manifest, rows of metrics.

Everything is written to a temporary file and renamed, so that a killed program leaves the
old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import StageError

_MANIFEST = "manifest"


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write arrays and a JSON manifest atomically; the manifest also gets what they are."""
    text = json.dumps({**manifest, "arrays": describe(arrays)})
    with atomic(path) as temporary, open(temporary, "wb") as file:
        everything: dict[str, Any] = {_MANIFEST: np.array(text), **arrays}
        np.savez(file, **everything)


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_npz` wrote. Raises StageError when the file is missing or damaged."""
    try:
        # NumPy leaves a file open that it opened itself and cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
        manifest = json.loads(str(arrays.pop(_MANIFEST)))
        # A flipped bit in the table of contents can hide an array.
        if manifest.get("arrays", describe(arrays)) != describe(arrays):
            raise ValueError("it does not hold the arrays that it lists")
        return arrays, manifest
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


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a path beside `folder`; the folder made there takes its place when the block succeeds.

    What stood there stays until then, and is gone afterwards.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = fresh.with_suffix(".old")
    try:
        yield fresh
        # No portable call swaps two folders; between these two lines there is none.
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Shape and dtype of every array, for a manifest."""
    return {k: [list(v.shape), str(v.dtype)] for k, v in arrays.items()}


def check_same(
    path: Path, stored: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> None:
    """Raise StageError unless both have the same names, shapes and dtypes."""
    there, here = describe(stored), describe(wanted)
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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut off by a kill is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
