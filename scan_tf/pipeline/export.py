"""The stage `export`: the classifier as a SavedModel, checked against the trained networks."""

from __future__ import annotations

from typing import Any

from scan_tf.errors import StageError
from scan_tf.pipeline import build, features, savedmodel
from scan_tf.pipeline.run_dir import Run

_CHECKED = 64


def run(run: Run) -> dict[str, Any]:
    """Write the SavedModel of the last clustering, and compare it with what it was made of.

    Raises:
        StageError: there is no network to export.
    """
    if not features.has_network(run.config):
        raise StageError(
            f"export: {run.config.pretext.weights} holds features, and no network that would "  # type: ignore[attr-defined]
            "classify images. The clusters are in eval/assignments.csv."
        )
    stage = run.clusterings()[-1]
    backbone, heads = build.trained_clusters(run, stage)
    images, folder = run.train_images, run.folder("export")
    savedmodel.save(folder, backbone, heads)
    checked = savedmodel.check(folder, backbone, heads, images.images[:_CHECKED])
    return {"weights_of": stage, **checked}
