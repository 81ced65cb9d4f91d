"""Which image went into which cluster: the files for those who go on with that."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import DataError
from scan_tf.evaluation import metrics
from scan_tf.evaluation.text import cell
from scan_tf.storage.files import write_csv, write_npz

FILE = "assignments.csv"
COLUMNS = ("path", "cluster", "name", "confidence")


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A row of `assignments.csv`: what an image was given.

    Attributes:
        path: of the image, to the folder of the images where it lies in one.
        cluster: the most probable one.
        name: of the cluster, "" where it has none.
        confidence: the probability of the cluster, 0..1.
    """

    path: str
    cluster: int
    name: str
    confidence: float


@dataclasses.dataclass(frozen=True, eq=False)
class Clustering:
    """What a stage makes of the evaluated images.

    Attributes:
        name: its key in the report.
        label: what pictures call it.
        probs: cluster probabilities float32 [N,C], calibrated where `raw` is given.
        features: float32 [N,D] of its backbone.
        result: what its record says, which goes into the report.
        teaches: whether its confident predictions are what self-labelling learns from.
        names: of its C clusters, "" for one without; empty where none has one.
        raw: probabilities float32 [N,C] as the head was trained to give them; None: `probs` are.
    """

    name: str
    label: str
    probs: np.ndarray
    features: np.ndarray
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teaches: bool = False
    names: Sequence[str] = ()
    raw: np.ndarray | None = None

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
) -> list[Assignment]:
    """`assignments.npz`: what each image was given, by stage; `assignments.csv`: by the last one.

    An image that came from no file has its row in the set for a path. Returns the rows.
    """
    arrays: dict[str, np.ndarray] = {}
    for clustering in clusterings:
        arrays[f"{clustering.name}_cluster"] = clustering.clusters
        arrays[f"{clustering.name}_confidence"] = clustering.confidence
    write_npz(folder / "assignments.npz", arrays, {})
    paths: Sequence[object] = images.paths or range(len(images))
    if images.paths and root is not None:
        paths = [os.path.relpath(path, root) for path in images.paths]
    last = clusterings[-1]
    names = last.names or [""] * last.probs.shape[1]
    rows = [
        Assignment(str(path), cluster, names[cluster], confidence)
        for path, cluster, confidence in zip(
            paths, last.clusters.tolist(), last.confidence.tolist(), strict=True
        )
    ]
    _write_rows(folder / FILE, rows)
    return rows


def read(path: Path) -> list[Assignment]:
    """The rows of an `assignments.csv`. Raises DataError where it is damaged."""
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        if tuple(header) != COLUMNS:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)}, got {header}")
        return [Assignment(p, int(c), name, float(x)) for p, c, name, x in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: missing or damaged ({error}). Make it anew: --redo evaluate."
        ) from error


def rename(path: Path, names: Sequence[str]) -> None:
    """Give the clusters of an `assignments.csv` other names; raises as `read`."""
    rows = read(path)
    _write_rows(path, (dataclasses.replace(row, name=names[row.cluster]) for row in rows))


def _write_rows(path: Path, rows: Iterable[Assignment]) -> None:
    write_csv(path, COLUMNS, ((r.path, r.cluster, r.name, f"{r.confidence:.6f}") for r in rows))


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
        found = metrics.mapping_rows(
            images.labels,
            clustering.clusters,
            scores[clustering.name]["mapping"],
            num_clusters=clustering.probs.shape[1],
        )
        rows = []
        for cluster, number, size, purity in found:
            name = None if number is None else images.class_names[number]
            name = name if formulas else cell(name)
            rows.append((cluster, name, size, None if purity is None else round(purity, 4)))
        last = clustering is clusterings[-1]
        file = "mapping.csv" if last else f"mapping-{clustering.name}.csv"
        write_csv(folder / file, ("cluster", "class", "size", "purity"), rows)
