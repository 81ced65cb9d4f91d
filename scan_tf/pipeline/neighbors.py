"""The stage `neighbors`: who is near whom among the training images."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from scan_tf.errors import ConfigError, StageError
from scan_tf.features import neighbors
from scan_tf.features.neighbors import Neighbors
from scan_tf.pipeline import build
from scan_tf.pipeline.features import of_pretext
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage import files

_log = logging.getLogger(__name__)


def run(run: Run) -> dict[str, Any]:
    """Find the nearest neighbours of every training image."""
    run.require("pretext")
    config, folder = run.config.neighbors, run.folder("neighbors")
    (folder / "features.npz").unlink(missing_ok=True)
    train = features(run)["train"]
    try:
        mined = neighbors.mine(
            train,
            config,
            k=config.k,
            seed=run.seed("neighbors"),
            index_path=folder / "index.ann",
            progress=run.config.runtime.progress,
        )
    except ConfigError as error:
        raise ConfigError(f"neighbors.{error}") from error
    neighbors.save(folder / "train.npz", mined)
    print(f"  {mined.index} ({mined.reason}); recall {mined.recall:.3f}")
    return {"index": mined.index, "reason": mined.reason, "recall": mined.recall}


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
