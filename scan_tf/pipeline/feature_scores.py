"""What the pretext's features are worth: those of the backbone and its projection side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import probes
from scan_tf.evaluation.knn import knn_accuracies
from scan_tf.features import rows
from scan_tf.features.embedding import blockwise
from scan_tf.methods.task import Pretext
from scan_tf.pipeline import features
from scan_tf.pipeline.run_dir import Run

# Neighbours that the kNN classifier asks beside `evaluate.knn_k`: what others publish with.
KS = (10, 100, 200)
# Features of the training images and of the evaluated ones.
Rows = tuple[np.ndarray, np.ndarray]


def score(
    run: Run,
    images: ImageSet,
    pretext: Pretext,
    mined: Rows,
    mined_kmeans: Mapping[str, Any],
    *,
    kmeans: Mapping[str, Any],
    leave_one_out: bool,
) -> dict[str, dict[str, Any]]:
    """Scores by "backbone", by "projection" if there is one, and by what neighbours are found by.

    Without `evaluate.linear_probe`, which looks at all images once more, by the last alone.

    Args:
        run: the run.
        images: the evaluated images.
        pretext: the trained pretext.
        mined: unit rows float32 [N,P] and [M,P] by which neighbours are found.
        mined_kmeans: of k-means on those.
        kmeans: options of `probes.kmeans_scores`.
        leave_one_out: whether the evaluated images are the training images.

    Returns:
        For each: dim, the length of a row; knn_k and knn_acc; knn_acc_by_k, by K as text, for
        `KS` and knn_k (at most all images); linear_probe_acc (None: not fitted); kmeans_acc,
        kmeans_nmi and kmeans_ari. Nothing without labels.
    """
    train, config = run.train_images, run.config.evaluate
    if train.labels is None or images.labels is None:
        return {}
    name = features.mined_by(run.config, pretext)
    # The probe is fitted on the backbone's features as they are, all else looks at directions.
    whole: dict[str, Rows] = {name: mined}
    unit: dict[str, Rows] = {name: mined}
    if config.linear_probe:
        raw = [_raw(run, pretext, source) for source in (train, images)]
        whole["backbone"] = raw[0], raw[1]
        unit.setdefault("backbone", (rows.unit(raw[0]), rows.unit(raw[1])))
        if pretext.projects and "projection" not in unit:
            unit["projection"] = _project(pretext, raw[0]), _project(pretext, raw[1])
    probe = _probe(run, train.labels, images.labels, leave_one_out)
    found = {}
    for side in sorted(unit):
        bank, queries = unit[side]
        known = mined_kmeans if side == name else probes.kmeans_scores(
            bank, queries, images.labels, **kmeans
        )  # fmt: skip
        k = min(config.knn_k, len(bank) - leave_one_out)
        by_k = knn_accuracies(
            bank, train.labels, queries, images.labels, ks=sorted({*KS, k}),
            num_classes=len(train.class_names), leave_one_out=leave_one_out,
        )  # fmt: skip
        found[side] = {
            "dim": bank.shape[1],
            "knn_k": k,
            "knn_acc": by_k[k],
            "knn_acc_by_k": {str(k): accuracy for k, accuracy in by_k.items()},
            "linear_probe_acc": probe(whole.get(side, unit[side])),
            **{f"kmeans_{measure}": known[measure] for measure in ("acc", "nmi", "ari")},
        }
    return found


def _probe(
    run: Run, labels: np.ndarray, truth: np.ndarray, leave_one_out: bool
) -> Callable[[Rows], float | None]:
    """The linear probe of features: by cross-validation where the images are the training ones."""

    def probe(rows: Rows) -> float | None:
        if not run.config.evaluate.linear_probe:
            return None
        if leave_one_out:
            seed, progress = run.config.seed, run.config.runtime.progress
            return probes.cross_validated_probe(rows[1], truth, seed=seed, progress=progress)
        return probes.linear_probe(rows[0], labels, rows[1], truth)

    return probe


def _raw(run: Run, pretext: Pretext, images: ImageSet) -> np.ndarray:
    return features.of_backbone(
        run, pretext.backbone, images, f"backbone features of {images.split}"
    )


def _project(pretext: Pretext, rows: np.ndarray) -> np.ndarray:
    return blockwise(pretext.project, rows)
