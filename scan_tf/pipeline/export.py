"""The stage `export`: the classifier as a SavedModel, checked against the trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import MissingDataError, StageError
from scan_tf.pipeline import (
    build,
    corrected,
    doubt,
    features,
    formats,
    model_card,
    names,
    savedmodel,
)
from scan_tf.pipeline.run_dir import Run

_CHECKED = 64


def run(run: Run) -> dict[str, Any]:
    """Write the SavedModel of the last clustering, and compare it with what it was made of.

    Raises:
        StageError: there is no network to export.
    """
    if file := features.feature_file(run.config):
        raise StageError(
            f"export: {file} holds features, and no network that would classify images. The "
            "clusters are in eval/assignments.csv."
        )
    stage, folder = run.clusterings()[-1], run.folder("export")
    backbone, heads = build.shown_clusters(run)
    listed, doubts = names.listed(names.read(run), heads.num_clusters), doubt.load(run)
    card = model_card.text(run, stage, listed, doubts, image_size=backbone.image_size)
    savedmodel.save(folder, backbone, heads, names=listed, doubt=doubts, card=card)
    checked = savedmodel.check(folder, backbone, heads, _images(run))
    found = corrected.load(run)
    corrections = {} if found is None else {"corrections": found.facts}
    return {"weights_of": stage, **corrections, **checked}


def convert(run: Run, name: str) -> Path:
    """Write the SavedModel of the stage, which is done, as `export-<name>/`; see `formats`."""
    run.require("export")
    target = run.folder("export").with_name(f"export-{name}")
    found = formats.convert(run.folder("export"), target, name, _images(run))
    for file, difference in found.items():
        print(f"  {file}: probabilities differ from the SavedModel's by at most {difference:.1e}")
    return target


def _images(run: Run) -> np.ndarray:
    """Images uint8 [B,S,S,3] to compare on: some that were learned from, or else noise."""
    try:
        return run.train_images.images[:_CHECKED]
    except MissingDataError:
        print("  the images are not there: it is checked on noise")
    side = run.facts.size
    random = np.random.default_rng(run.config.seed)
    return random.integers(0, 256, (_CHECKED, side, side, 3), np.uint8)
