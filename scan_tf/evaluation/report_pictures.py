"""The pictures of a report: what an evaluation knows, put into PNG files beside `report.json`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import calibration, charts, headlines, metrics, pictures
from scan_tf.evaluation.assignments import Clustering
from scan_tf.evaluation.colours import matched_palette

_SHEET_IMAGES = 36
# Characters that fit below an image.
_FILE_NAME = 18


def draw_charts(
    folder: Path,
    clusterings: Sequence[Clustering],
    scores: Mapping[str, Mapping[str, Any]],
    pretext: Mapping[str, Any],
) -> None:
    """Charts of what is in the report, all clusterings in one."""
    shown_as = {clustering.label: scores[clustering.name] for clustering in clusterings}
    known = all(found["acc"] is not None for found in shown_as.values())
    if known:
        parts = {label: found["calibration"] for label, found in shown_as.items()}
        charts.reliability(
            folder / "reliability.png", {k: (c["ece"], c["bins"]) for k, c in parts.items()}
        )
    shown = "accuracy" if known else "threshold"
    rows = {label: found["coverage"] for label, found in shown_as.items()}
    charts.series(
        folder / "coverage.png",
        calibration.COVERAGES,
        {label: ([row[shown] for row in part], None) for label, part in rows.items()},
        xlabel="most confident images that are kept, %",
        ylabel="their accuracy" if known else "confidence of the least sure of them",
        title=headlines.coverage(list(rows.values())[-1], known=known),
    )
    purity = pretext["neighbor_purity_by_k"]
    if purity:
        chance = pretext["neighbor_purity_chance"]
        charts.series(
            folder / "purity_vs_k.png",
            [int(k) for k in purity],
            {"training images": (list(purity.values()), None)},
            xlabel="nearest neighbours K",
            ylabel="share with the image's own class",
            title=headlines.purity(purity, chance),
            log_x=True,
            level=(f"chance: {chance:.3f}", chance),
        )


def draw(
    folder: Path,
    images: ImageSet,
    clustering: Clustering,
    points: np.ndarray,
    some: np.ndarray,
) -> None:
    """Pictures of the clusters of one clustering.

    Args:
        folder: where they go.
        images: the N evaluated images.
        clustering: of them.
        points: float32 [N,2], the images in the plane.
        some: int [n], rows of the images on the map.
    """
    clusters, confidence = clustering.clusters, clustering.confidence
    names, mapping = _cluster_names(images, clusters, clustering.probs.shape[1])
    given = clustering.names or [""] * len(names)
    names = [
        f"{c}: {own}" if own else name
        for c, (own, name) in enumerate(zip(given, names, strict=True))
    ]
    colours = matched_palette(mapping, len(images.class_names)) if mapping else None
    sizes = np.bincount(clusters, minlength=len(names))
    charts.cluster_sizes(folder / "cluster_sizes.png", sizes, names, colours)
    charts.confidence_histogram(folder / "confidence.png", confidence)
    chosen = metrics.prototypes(clustering.probs, clustering.features)
    examples = [images.images[i] if i >= 0 else None for i in chosen]
    captions = [f"{name}\n{_file_name(images, i)}" if i >= 0 else name
                for name, i in zip(names, chosen, strict=True)]  # fmt: skip
    pictures.prototypes(folder / "prototypes.png", examples, captions)
    _contact_sheets(folder / "clusters", images, clusters, confidence, names)
    pictures.feature_map(
        folder / "map.png",
        points[some],
        clusters[some],
        None if images.labels is None else images.labels[some],
        images.class_names,
        names=names,
        mapping=mapping or None,
    )
    if images.labels is not None:
        predicted = metrics.to_classes(clusters, mapping)
        known = predicted >= 0
        matrix = metrics.confusion(images.labels[known], predicted[known], len(images.class_names))
        pictures.confusion_matrix(folder / "confusion.png", matrix, images.class_names)


def _contact_sheets(
    folder: Path,
    images: ImageSet,
    clusters: np.ndarray,
    confidence: np.ndarray,
    names: list[str],
) -> None:
    """A page for each cluster: its most confident images, with file, confidence and true class."""
    folder.mkdir(parents=True, exist_ok=True)
    for cluster, name in enumerate(names):
        members = np.flatnonzero(clusters == cluster)
        top = members[np.argsort(-confidence[members], kind="stable")[:_SHEET_IMAGES]]
        part = f"the {len(top)} surest" if len(members) > len(top) else "the surest first"
        title = f"Cluster {name}: {len(members):,} images, {part}"
        below = [
            f"{_file_name(images, row)}\n{confidence[row]:.3f}{_class_name(images, row)}"
            for row in top.tolist()
        ]
        pictures.contact_sheet(folder / f"{cluster:03d}.png", images.images[top], below, title)


def _file_name(images: ImageSet, row: int) -> str:
    """The name of an image's file, with its end where it is long; without one its number."""
    if images.paths is None:
        return f"image {row}"
    name = "".join(c if c.isprintable() else " " for c in os.path.basename(images.paths[row]))
    return name if len(name) <= _FILE_NAME else "…" + name[1 - _FILE_NAME :]


def _class_name(images: ImageSet, row: int) -> str:
    """The true class of an image, as it stands behind the confidence; nothing without labels."""
    return "" if images.labels is None else f", {images.class_names[images.labels[row]]}"


def _cluster_names(
    images: ImageSet, clusters: np.ndarray, count: int
) -> tuple[list[str], list[int | None]]:
    """`3`, or `3: frog` where labels tell, and the mapping from clusters to classes."""
    if images.labels is None:
        return [str(c) for c in range(count)], []
    mapping, _ = metrics.match(images.labels, clusters, count, len(images.class_names))
    classes = [None if m is None else images.class_names[m] for m in mapping]
    return [str(c) if n is None else f"{c}: {n}" for c, n in enumerate(classes)], mapping
