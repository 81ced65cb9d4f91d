"""The stage `neighbors`: who is near whom among the training images."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import ConfigError, StageError
from scan_tf.features import neighbors, sharded
from scan_tf.features.neighbors import Neighbors
from scan_tf.features.search import Found
from scan_tf.pipeline import build, learning
from scan_tf.pipeline.features import of_pretext
from scan_tf.pipeline.run_dir import Run
from scan_tf.replicas import Replicas
from scan_tf.storage import files

# The rows that several processes search, for as long as they do.
_ROWS = "rows.npy"
_log = logging.getLogger(__name__)


def run(run: Run) -> dict[str, Any]:
    """Find the nearest neighbours of every training image."""
    run.require("pretext")
    config, folder = run.config.neighbors, run.folder("neighbors")
    (folder / "features.npz").unlink(missing_ok=True)
    train = features(run)["train"]
    places, progress = learning.replicas_of(run, "neighbors"), run.config.runtime.progress
    together = functools.partial(_search, folder / _ROWS, places, progress)
    try:
        mined = neighbors.mine(
            train,
            config,
            k=config.k,
            seed=run.seed("neighbors"),
            index_path=folder / "index.ann",
            search=together if places.processes > 1 else None,
            progress=progress,
        )
    except ConfigError as error:
        raise ConfigError(f"neighbors.{error}") from error
    if mined.index != "exact":
        places.agreed(0)  # there is nothing to help with
    neighbors.save(folder / "train.npz", mined)
    print(f"  {mined.index} ({mined.reason}); recall {mined.recall:.3f}")
    return {"index": mined.index, "reason": mined.reason, "recall": mined.recall}


def _search(path: Path, places: Replicas, progress: bool, rows: np.ndarray, k: int) -> Found:
    """Search with the other processes, which read the rows from a file."""
    files.write_npy(path, rows)
    try:
        places.agreed(k)
        return sharded.together(rows, k, places, progress=progress)
    finally:
        path.unlink(missing_ok=True)


def search_along(run: Run, places: Replicas) -> None:
    """Search a share of the rows for the process that writes the run, if it wants it.

    Raises:
        StageError: the rows that it has written are not to be seen from here.
    """
    if not (k := places.agreed(0)):
        return
    path = run.folder("neighbors") / _ROWS
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path}: cannot be read ({error}). All processes need to see the same run directory."
        ) from error
    sharded.together(rows, k, places)


def features(run: Run) -> dict[str, np.ndarray]:
    """The pretext's features float32 [N,P] of every split, unit rows; stored, and made if need be.

    They do not travel from machine to machine, so that they may be missing in a finished stage.
    """
    path = run.folder("neighbors") / "features.npz"
    if path.exists():
        try:
            return files.read_npz(path)[0]
        except StageError as error:
            _log.warning("%s They are computed anew.", error)
    task = build.trained_pretext(run)
    embedded = {
        split: of_pretext(run, task, images, f"features of {split}")
        for split in ("train", "test")
        if (images := run.images(split)) is not None
    }
    if run.record("neighbors").has_begun:
        files.write_npz(path, embedded, {})
    return embedded


def mined(run: Run) -> Neighbors:
    """What the stage found. Raises StageError where it has not finished."""
    run.require("neighbors")
    return neighbors.load(run.sealed("neighbors", "train.npz"))
