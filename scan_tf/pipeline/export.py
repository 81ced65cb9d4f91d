"""The stage `export`: the classifier as a SavedModel, checked against the trained networks."""

from __future__ import annotations

from typing import Any

from scan_tf.pipeline import build, savedmodel
from scan_tf.pipeline.run_dir import Run

_CHECKED = 64


def run(run: Run) -> dict[str, Any]:
    """Write the SavedModel of the last clustering, and compare it with what it was made of."""
    stage = run.clusterings()[-1]
    backbone, heads = build.trained_clusters(run, stage)
    images, folder = run.train_images, run.folder("export")
    savedmodel.save(folder, backbone, heads)
    checked = savedmodel.check(folder, backbone, heads, images.images[:_CHECKED])
    return {"weights_of": stage, **checked}
