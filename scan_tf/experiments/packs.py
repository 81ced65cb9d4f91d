"""A run directory packed to be carried, and gone on with on another machine.

What later stages need travels, and no more: weights exactly, the state of a stage that has begun,
the neighbours, the metrics and the records. Left behind are pictures, TensorBoard, the SavedModel,
and the features, which are made again from the weights.

Of a training state the weights and the statistics of BatchNorm travel exactly, the optimiser's
moving averages rounded to bfloat16. That happens here alone, once a journey; training goes on in
float32. A relative error of at most 2**-8 in a momentum of 0.9 is gone after some tens of steps.
Adam's second moments keep the range of float32 (float16 would lose those below 6e-8); what the
moments contribute to its next step changes by less than 0.6 %.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scan_tf import files
from scan_tf.errors import DataError, StageError
from scan_tf.experiments import archive

# Of each stage, what the stages after it read, and what it needs to go on itself.
_FINISHED = {
    "pretext": ("weights.npz",),
    "neighbors": ("train.npz",),
    "scan": ("weights.npz",),
    "selflabel": ("weights.npz",),
}
_BEGUN = {
    "pretext": ("ckpt/state.npz",),
    "scan": ("heads/weights.npz", "heads/ckpt/state.npz", "best.npz", "ckpt/state.npz"),
    "selflabel": ("ckpt/state.npz",),
}
_TEXTS = (
    "config.yaml",
    "environment.json",
    "campaign.jsonl",
    "pretext/metrics.jsonl",
    "scan/heads/metrics.jsonl",
    "scan/metrics.jsonl",
    "scan/best.json",
    "selflabel/metrics.jsonl",
    "eval/report.json",
    "status/*.json",
)
# The repetitions with other seeds: the run of each, and the tables.
_SEED_RUNS = "sweeps/seeds*/seed-*"
_SEED_TABLES = ("sweeps/seeds*/scores.json", "sweeps/seeds*/table.*")


def pack(root: Path, folder: Path, *, part_mib: float = 15) -> list[Path]:
    """Write what is needed to go on with a run, in place of an older pack of it.

    What is finished comes first, so that of a later pack only the parts with new names, and the
    manifest, have to be carried.

    Args:
        root: the run directory; no program may be at work in it.
        folder: what becomes the pack.
        part_mib: size in MiB of the parts; the last one is smaller.

    Returns:
        The files of the pack, the manifest first.

    Raises:
        StageError: there is no run, or a file of it is damaged.
        DataError: `folder` holds something else.
        ConfigError: `part_mib` is not positive.
    """
    if not (root / "config.yaml").is_file():
        raise StageError(f"{root}: no run directory; config.yaml is missing.")
    return archive.write(root, _contents(root), folder, rounding=_rounded, part_mib=part_mib)


def unpack(paths: Iterable[Path], root: Path, *, data_path: str | None = None) -> None:
    """Restore a run directory from a pack, after checking all of it.

    Args:
        paths: folders with the files of the pack, or the files.
        root: the run directory to make; it appears when it is complete.
        data_path: where the images are on this machine, in place of the run's `data.path`.

    Raises:
        DataError: a file of the pack is missing, damaged or of another format.
        StageError: `root` exists and is not empty.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise StageError(f"{root}: exists. Unpack into a new folder.")
    root = root.absolute()
    fresh = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        archive.read(paths, fresh)
        if data_path is not None:
            _move_data(fresh, data_path)
        if root.exists():
            root.rmdir()
        os.replace(fresh, root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def moving_averages(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Which variables of a training state are the optimiser's moving averages.

    They are the last ones, after the optimiser's counter, the last int64 scalar.
    """
    keys = sorted(key for key in arrays if key.isdecimal())
    scalars = [k for k in keys if arrays[k].dtype == np.int64 and not arrays[k].ndim]
    return keys[keys.index(scalars[-1]) + 1 :] if scalars else []


def _rounded(path: Path, arrays: Mapping[str, np.ndarray]) -> list[str]:
    return moving_averages(arrays) if path.name == "state.npz" else []


def _contents(root: Path) -> Iterator[Path]:
    """The files to carry, those that will not change any more first."""
    finished = [stage for stage in _FINISHED if _is_done(root, stage)]
    for stage in finished:
        yield from _existing(root / stage, _FINISHED[stage])
    for stage in _BEGUN:
        if stage not in finished:
            yield from _begun(root / stage)
    for path in _existing(root, _TEXTS):
        # The SavedModel stays behind and is made again.
        if path.relative_to(root).as_posix() != "status/export.json":
            yield path
    for seed in sorted(root.glob(_SEED_RUNS)):
        yield from _seed_contents(seed)
    yield from _existing(root, _SEED_TABLES)


def _seed_contents(root: Path) -> Iterator[Path]:
    """Of a finished seed its scores alone; others take pretext and neighbours from the run."""
    finished = _is_done(root, "evaluate")
    for stage in () if finished else ("scan", "selflabel"):
        if _is_done(root, stage):
            yield from _existing(root / stage, _FINISHED[stage])
        else:
            yield from _begun(root / stage)
    for path in _existing(root, _TEXTS):
        if finished or path.parent.name != "status" or path.stem in ("scan", "selflabel"):
            yield path


def _begun(folder: Path) -> Iterator[Path]:
    for path in _existing(folder, _BEGUN[folder.name]):
        # Heads that have been warmed up need their state no more.
        if path.parts[-3:-1] != ("heads", "ckpt") or not (folder / "heads/weights.npz").exists():
            yield path


def _existing(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))


def _is_done(root: Path, stage: str) -> bool:
    path = root / "status" / f"{stage}.json"
    return path.exists() and _record(path).get("status") == "done"


def _move_data(root: Path, data_path: str) -> None:
    """Put another `data.path` into the configs and the records, which have to agree with it."""
    for path in root.rglob("config.yaml"):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        tree["data"]["path"] = data_path
        files.write_text(path, yaml.safe_dump(tree, sort_keys=False))
    for path in root.rglob("status/*.json"):
        record = _record(path)
        if "data" in record["config"]:
            record["config"]["data"]["path"] = data_path
            files.write_text(path, json.dumps(record, indent=2) + "\n")


def _record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read or is damaged ({error}).") from error
