"""The page of a run, `report.html`: what the run directory knows, handed to `report_page`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import config
from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import report_page
from scan_tf.evaluation.page_data import StageFacts
from scan_tf.features import neighbors
from scan_tf.files import read_metrics
from scan_tf.pipeline.run_dir import TITLES, Run

# What is scored in `report.json`, and what it is called.
_SCORED = {
    "kmeans_pixels": "k-means on pixels",
    "kmeans_features": "k-means on pretext features",
    "scan": "SCAN",
    "selflabel": "self-label",
}


def write(
    work: Run, images: ImageSet, probs: np.ndarray, features: np.ndarray, folder: Path
) -> None:
    """Write `report.html` beside `report.json`.

    Args:
        work: the run.
        images: the N evaluated images.
        probs: cluster probabilities float32 [N,C] of the last clustering.
        features: float32 [N,D] of its backbone.
        folder: of the evaluation, with its `report.json`.
    """
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    mined = None
    if images.split == "train" and work.is_done("neighbors"):
        mined = neighbors.load(work.folder("neighbors") / "train.npz")
    report_page.write(
        folder / "report.html",
        images,
        probs,
        features,
        name=Path(path).resolve().name if (path := work.config.data.path) else images.name,
        scores={name: found[key] for key, name in _SCORED.items() if found[key]},
        stages=[_facts(work, stage) for stage in found["wall_time_s"] if work.record(stage)],
        settings=config.dump(work.config),
        environment=_environment(work),
        map_points=work.config.evaluate.map_points,
        seed=work.config.seed,
        mined=mined,
    )


def _environment(work: Run) -> dict[str, Any]:
    """What the run was made on; nothing where its config was never written."""
    path = work.root / "environment.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _facts(work: Run, stage: str) -> StageFacts:
    rows = read_metrics(work.folder(stage) / "metrics.jsonl")
    return StageFacts(
        _SCORED.get(stage, stage), TITLES[stage], work.record(stage)["wall_time_s"], rows
    )
