"""The page of a run, `report.html`: what the run directory knows, handed to `report_page`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import config
from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import abstention, report_lines, report_page
from scan_tf.evaluation.assignments import Clustering
from scan_tf.evaluation.page_data import StageFacts
from scan_tf.features import neighbors
from scan_tf.pipeline import build, corrected, plan, reports
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import STAGES, labels
from scan_tf.storage.files import read_metrics

# Beside the clusterings: what is scored in `report.json`, and what it is called.
_BASELINES = {
    "kmeans_pixels": "k-means on pixels",
    "kmeans_colors": "k-means on colours",
    "kmeans_features": "k-means on pretext features",
}


def write(
    run: Run,
    images: ImageSet,
    clustering: Clustering,
    points: np.ndarray,
    folder: Path,
    *,
    distance: np.ndarray | None,
) -> None:
    """Write `report.html` beside `report.json`.

    Args:
        run: the run.
        images: the N evaluated images.
        clustering: the last one of them.
        points: float32 [N,2], the images in the plane.
        folder: of the evaluation, with its `report.json`.
        distance: float32 [N] from the images that were learned from; None: unknown.
    """
    found = reports.read(run, folder)
    abstain, outliers = found.get("abstain"), None
    if abstain is not None and distance is not None:
        outliers = abstention.outliers(distance, abstain["far"])
    shown = labels()
    scored = _BASELINES | {stage: shown[stage] for stage in run.clusterings()}
    scored |= {corrected.NAME: f"+ {corrected.LABEL}"}
    mined = None
    if images.split == "train" and run.is_done("neighbors"):
        mined = neighbors.load(run.sealed("neighbors", "train.npz"))
    report_page.write(
        folder / "report.html",
        images,
        clustering.probs,
        clustering.features,
        name=Path(path).resolve().name if (path := run.config.data.path) else images.name,
        scores={name: found[key] for key, name in scored.items() if found.get(key)},
        stages=[
            _facts(run, stage) for stage in found["wall_time_s"] if run.record(stage).has_begun
        ],
        settings=config.dump(run.config),
        environment=_environment(run),
        calibrated=_is_calibrated(run, clustering),
        feature_scores=found["pretext"].get("features"),
        points=points,
        seed=run.config.seed,
        mined=mined,
        backbone=found["backbone"],
        notes=[
            *([report_lines.kept(found, shown)] if found["kept_because"] else []),
            *run.record("scan").result.get("warnings", ()),
        ],
        cluster_names=clustering.names or None,
        abstain=abstain,
        outliers=outliers,
        decided=found.get("num_clusters_auto"),
    )


def _environment(run: Run) -> dict[str, Any]:
    """What the run was made on; nothing where its config was never written."""
    path = run.root / "environment.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _facts(run: Run, stage: str) -> StageFacts:
    rows = read_metrics(run.sealed(stage, "metrics.jsonl"))
    name = STAGES[stage].label or stage
    title = plan.title(run.config, stage)
    return StageFacts(name, title, run.record(stage).wall_time_s, rows)


def _is_calibrated(run: Run, clustering: Clustering) -> bool:
    """Whether the probabilities have a temperature, also where they were read from a file."""
    if clustering.name == corrected.NAME:
        return False
    return clustering.raw is not None or build.temperature(run, clustering.name) != 1
