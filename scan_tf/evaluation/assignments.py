"""Which image went into which cluster: the files for those who go on with that."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import metrics
from scan_tf.evaluation.text import cell
from scan_tf.files import write_npz, write_text


@dataclasses.dataclass(frozen=True, eq=False)
class Clustering:
    """What a stage makes of the evaluated images.

    Attributes:
        name: its key in the report.
        label: what pictures call it.
        probs: cluster probabilities float32 [N,C].
        features: float32 [N,D] of its backbone.
        result: what its record says, which goes into the report.
        teaches: whether its confident predictions are what self-labelling learns from.
    """

    name: str
    label: str
    probs: np.ndarray
    features: np.ndarray
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teaches: bool = False

    @property
    def clusters(self) -> np.ndarray:
        """The most probable cluster of every image, int64 [N]."""
        return self.probs.argmax(axis=1).astype(np.int64)

    @property
    def confidence(self) -> np.ndarray:
        """Its probability, float32 [N]."""
        return self.probs.max(axis=1)


def write(
    folder: Path, images: ImageSet, root: Path | None, clusterings: Sequence[Clustering]
) -> None:
    """`assignments.npz`: what each image was given, by stage; `assignments.csv`: by the last one.

    An image that came from no file has its row in the set for a path. No cluster has a name yet.
    """
    arrays: dict[str, np.ndarray] = {}
    for clustering in clusterings:
        arrays[f"{clustering.name}_cluster"] = clustering.clusters
        arrays[f"{clustering.name}_confidence"] = clustering.confidence
    write_npz(folder / "assignments.npz", arrays, {})
    paths: Sequence[object] = images.paths or range(len(images))
    if images.paths and root is not None:
        paths = [os.path.relpath(path, root) for path in images.paths]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "cluster", "name", "confidence"))
    last = clusterings[-1]
    for path, cluster, confidence in zip(paths, last.clusters, last.confidence, strict=True):
        rows.writerow((path, cluster, "", f"{confidence:.6f}"))
    write_text(folder / "assignments.csv", text.getvalue())


def write_mappings(
    folder: Path,
    images: ImageSet,
    clusterings: Sequence[Clustering],
    scores: Mapping[str, Mapping[str, Any]],
    *,
    formulas: bool = False,
) -> None:
    """`mapping.csv` of the last clustering, `mapping-<name>.csv` of those before it.

    Names that spreadsheets would take for formulas get a quote, unless they are to stay `formulas`.
    """
    for clustering in clusterings:
        rows = metrics.mapping_rows(
            images.labels,
            clustering.clusters,
            scores[clustering.name]["mapping"],
            num_clusters=clustering.probs.shape[1],
        )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("cluster", "class", "size", "purity"))
        for cluster, number, size, purity in rows:
            name = None if number is None else images.class_names[number]
            name = name if formulas else cell(name)
            writer.writerow((cluster, name, size, None if purity is None else round(purity, 4)))
        last = clustering is clusterings[-1]
        name = "mapping.csv" if last else f"mapping-{clustering.name}.csv"
        write_text(folder / name, text.getvalue())
