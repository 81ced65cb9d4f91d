"""The page of a report: what an evaluation knows, put into `report.html`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.config import NeighborsConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import page
from scan_tf.evaluation.page_data import PageData, StageFacts
from scan_tf.evaluation.remarks import remarks
from scan_tf.features import duplicates, neighbors

# Neighbours in which near duplicates are looked for, where none were mined.
_NEIGHBORS = 5


def write(
    path: Path,
    images: ImageSet,
    probs: np.ndarray,
    features: np.ndarray,
    *,
    name: str,
    scores: Mapping[str, Mapping[str, Any]],
    stages: Sequence[StageFacts],
    settings: str,
    environment: Mapping[str, Any],
    points: np.ndarray,
    seed: int,
    calibrated: bool = False,
    notes: Sequence[str] = (),
    feature_scores: Mapping[str, Mapping[str, Any]] | None = None,
    mined: neighbors.Neighbors | None = None,
    cluster_names: Sequence[str] | None = None,
    backbone: Mapping[str, Any] | None = None,
    abstain: Mapping[str, Any] | None = None,
    outliers: np.ndarray | None = None,
    decided: Mapping[str, Any] | None = None,
) -> None:
    """Write the page about a clustering.

    Args:
        path: the file.
        images: the N evaluated images.
        probs: cluster probabilities float32 [N,C].
        features: float32 [N,D] of the backbone that gave them.
        name: of the images, for the title.
        scores: name -> scores, as `report.json` holds them; the last is that of the clustering.
        stages: that led to it.
        settings: as YAML.
        environment: versions and hardware.
        points: float32 [N,2], the images in the plane; see `map2d.layout`.
        seed: of the neighbours, and of the choice of images where there are too many.
        calibrated: whether the probabilities were given a temperature.
        feature_scores: of the pretext, as `report.json` holds them.
        mined: neighbours of these images; None: they are mined from the features.
        cluster_names: C names, "" for a cluster without one.
        backbone: where pretrained features come from, as for `remarks`; None: they were learned.
        notes: sentences to warn of, beside those that the assignments tell.
        abstain: how many images are none of the kinds, see `abstention.summary`.
        outliers: rows of those that are unlike all others, the farthest first.
        decided: how the number of clusters was decided; None: it was set.
    """
    paths = [*(images.paths or ()), *images.skipped]
    below = _below(paths)
    clusters, confidence = probs.argmax(axis=1).astype(np.int64), probs.max(axis=1)
    found = _duplicates(images, features, mined, seed)
    last = [*scores.values()][-1]
    labelled = "with labels" if images.labels is not None else "without labels"
    page.write(
        path,
        PageData(
            title=f"{name}: {probs.shape[1]} clusters",
            subtitle=f"{len(images):,} images of the {images.split} split, {labelled}, seed {seed}",
            images=images.images,
            clusters=clusters,
            confidence=confidence,
            num_clusters=probs.shape[1],
            names=None if images.paths is None else below[: len(images)],
            cluster_names=cluster_names,
            probs=probs,
            features=features,
            coordinates=points,
            labels=images.labels,
            class_names=images.class_names,
            calibrated=calibrated,
            scores=scores,
            feature_scores=feature_scores or {},
            stages=stages,
            settings=settings,
            environment=environment,
            warnings=[
                *notes,
                *remarks(
                    clusters,
                    confidence,
                    num_clusters=probs.shape[1],
                    ece=(last.get("calibration") or {}).get("ece"),
                    skipped=len(images.skipped),
                    exact_duplicates=found.surplus,
                    backbone=backbone,
                    abstain=abstain,
                ),
            ],
            skipped=below[len(paths) - len(images.skipped) :],
            duplicates=found,
            outliers=outliers,
            decided=decided,
        ),
        seed=seed,
    )


def _below(paths: Sequence[str]) -> list[str]:
    """The paths below the deepest folder that holds them all."""
    if not paths:
        return []
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(path, folder) for path in paths]


def _duplicates(
    images: ImageSet, features: np.ndarray, mined: neighbors.Neighbors | None, seed: int
) -> duplicates.Duplicates:
    if mined is not None:
        return duplicates.find(images.images, mined.indices, mined.similarity)
    k = min(_NEIGHBORS, len(features) - 1)
    # A row without a direction has no neighbours: then equal pixels are all that can be told.
    if k == 0 or not np.linalg.norm(features, axis=1).all():
        itself = np.arange(len(features))[:, None]
        return duplicates.find(images.images, itself, np.ones(itself.shape, np.float32))
    near = neighbors.mine(features, NeighborsConfig(), k=k, seed=seed)
    return duplicates.find(images.images, near.indices, near.similarity)
