"""What an evaluation found of every image, kept in its folder: features, probabilities, map."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import StageError
from scan_tf.evaluation import assignments
from scan_tf.evaluation.assignments import Clustering
from scan_tf.handover import row_files
from scan_tf.pipeline import reports
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage import files

FILE = "embeddings.npz"
# Rows that are written at a time.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Of N images.

    Attributes:
        features: float32 [N,D] of the backbone of the last clustering.
        probs: float32 [N,C], its cluster probabilities, as corrected where somebody has done so.
        points: float32 [N,2], the images in the plane.
        distance: float32 [N] from the images that were learned from, or None.
        labels: int64 [N] into `class_names`, or None.
        class_names: of the labels.
        are_files: whether the images came from files, so that their paths lead somewhere.
        own_probs: float32 [N,C'], the probabilities before corrections; None where `probs` are.
    """

    features: np.ndarray
    probs: np.ndarray
    points: np.ndarray
    distance: np.ndarray | None
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    are_files: bool
    own_probs: np.ndarray | None = None


def store(
    folder: Path,
    images: ImageSet,
    clustering: Clustering,
    points: np.ndarray,
    distance: np.ndarray | None,
    *,
    own_probs: np.ndarray | None = None,
) -> None:
    """Keep what was found of the images in the folder of their evaluation; see `Embeddings`."""
    arrays = {"features": clustering.features, "probs": clustering.probs, "points": points}
    if distance is not None:
        arrays["distance"] = distance
    if images.labels is not None:
        arrays["labels"] = images.labels
    if own_probs is not None:
        arrays["own_probs"] = own_probs
    manifest = {"class_names": list(images.class_names), "are_files": images.paths is not None}
    files.write_npz(folder / FILE, arrays, manifest)


def folder_of(run: Run, split: str | None) -> Path:
    """The folder of a finished evaluation of a split; None: of the stage's.

    Raises:
        StageError: the stage is not done, or that split was not evaluated.
    """
    run.require("evaluate")
    folder = run.folder("evaluate")
    beside = folder.with_name(f"{folder.name}-{split}")
    if split is None or beside.is_dir():
        return folder if split is None else beside
    if reports.read(run)["split"] == split:
        return folder
    raise StageError(
        f"{beside}: no such folder. Make it: scan-tf evaluate --run-dir {run.root} --split {split}"
    )


def load(folder: Path) -> Embeddings:
    """What `store` kept. Raises StageError where it is missing or damaged."""
    path = folder / FILE
    way = reports.remedy(folder)
    if not path.exists():
        raise StageError(f"{path}: no such file. {way}")
    arrays, manifest = files.read_npz(path, way=way)
    return Embeddings(
        features=arrays["features"],
        probs=arrays["probs"],
        points=arrays["points"],
        distance=arrays.get("distance"),
        labels=arrays.get("labels"),
        class_names=tuple(manifest["class_names"]),
        are_files=manifest["are_files"],
        own_probs=arrays.get("own_probs"),
    )


def write(run: Run, folder: Path, output: Path) -> int:
    """Write a table for other tools, and return its number of rows.

    The columns are path (absolute, where the images are files), cluster, name, confidence, distance
    from what was learned, label (where there are labels), x and y on the map, and embedding,
    float32 [D].

    Args:
        run: the run.
        folder: of one of its evaluations.
        output: the file; see `row_files.writing` for its kinds.

    Raises:
        ConfigError: the suffix of the output, or what writes it is not installed.
        StageError, DataError: the evaluation is missing or damaged.
    """
    row_files.check(output)
    found, rows = load(folder), assignments.read(folder / assignments.FILE)
    if len(rows) != len(found.features):
        raise StageError(
            f"{folder}: {assignments.FILE} has {len(rows)} rows, {FILE} {len(found.features)}. "
            "Make them anew: --redo evaluate."
        )
    root = Path(run.config.data.path or "").absolute()
    paths = [str(root / row.path) if found.are_files else row.path for row in rows]
    columns: dict[str, type | str] = {"path": str, "cluster": int, "name": str, "confidence": float}
    columns |= {} if found.distance is None else {"distance": float}
    columns |= {} if found.labels is None else {"label": str}
    columns |= {"x": float, "y": float, "embedding": row_files.VECTOR}
    with row_files.writing(output, columns) as rows_out:
        for low in range(0, len(rows), _BLOCK):
            part = slice(low, low + _BLOCK)
            batch = {
                "path": paths[part],
                "cluster": [row.cluster for row in rows[part]],
                "name": [row.name for row in rows[part]],
                "confidence": found.probs[part].max(axis=1),
                "x": found.points[part, 0],
                "y": found.points[part, 1],
                "embedding": found.features[part],
            }
            if found.distance is not None:
                batch["distance"] = found.distance[part]
            if found.labels is not None:
                batch["label"] = [found.class_names[label] for label in found.labels[part]]
            rows_out(batch)
    return len(rows)
