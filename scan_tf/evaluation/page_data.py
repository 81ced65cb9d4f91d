"""What a page about a clustering is made of: arrays and plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scan_tf.errors import DataError
from scan_tf.evaluation import colours, metrics
from scan_tf.features.duplicates import Duplicates


@dataclasses.dataclass(frozen=True)
class StageFacts:
    """What the page says of a stage.

    Attributes:
        name: what it is called.
        title: what it does, in words.
        seconds: how long it took; None where unknown.
        rows: of its `metrics.jsonl`, none where it did not train.
    """

    name: str
    title: str
    seconds: float | None = None
    rows: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class PageData:
    """A clustering of N images into C clusters, and all that is known of it.

    Attributes:
        title: of the page.
        images: uint8 [N,S,S,3] by `[rows]`, in memory or memory-mapped.
        clusters: int [N] in 0..C-1.
        confidence: float [N] in 0..1.
        num_clusters: C, empty ones included.
        subtitle: a line below the title: which split, of what, with which seed.
        names: the path of every image, N texts of any characters.
        cluster_names: C names, "" for a cluster without one.
        probs: float [N,C], rows sum to 1; for the borderline images.
        features: float [N,D]; for the typical images.
        coordinates: float [N,2]; for the map.
        labels: int [N] into `class_names`.
        class_names: of the labels; not read without labels.
        calibrated: whether `confidence` was fitted to be the share of images that are right.
        scores: name of a clustering -> its scores, as the report holds them; the last one is that
            of the page.
        feature_scores: "backbone", "projection" -> dim, knn_k, knn_acc, linear_probe_acc and
            kmeans_acc of the pretext's features.
        stages: in the order in which they ran.
        settings: as YAML.
        environment: versions and hardware.
        warnings: sentences.
        skipped: files that could not be read.
        duplicates: rows into the N images.
        outliers: rows of images that are unlike all others, the farthest first.
        decided: how the number of clusters was decided, as the report holds it; None: it was set.
    """

    title: str
    images: Any
    clusters: np.ndarray
    confidence: np.ndarray
    num_clusters: int
    subtitle: str = ""
    names: Sequence[str] | None = None
    cluster_names: Sequence[str] | None = None
    probs: np.ndarray | None = None
    features: np.ndarray | None = None
    coordinates: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: Sequence[str] = ()
    calibrated: bool = False
    scores: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    feature_scores: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    stages: Sequence[StageFacts] = ()
    settings: str = ""
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warnings: Sequence[str] = ()
    skipped: Sequence[str] = ()
    duplicates: Duplicates | None = None
    outliers: np.ndarray | None = None
    decided: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit together. Raises DataError, naming the part."""
        count, shape = len(self.images), tuple(self.images.shape)
        side = shape[1] if len(shape) == 4 else 0
        if not count or shape != (count, side, side, 3):
            raise DataError(f"images: expected uint8 [N,S,S,3] with N >= 1, got {list(shape)}.")
        if self.images.dtype != np.uint8:
            raise DataError(f"images: expected uint8, got {self.images.dtype}.")
        metrics.ids(self.clusters, self.num_clusters, "clusters")
        if self.labels is not None:
            metrics.ids(self.labels, len(self.class_names), "labels")
        shapes: dict[str, tuple[int, ...]] = {
            "clusters": (count,),
            "confidence": (count,),
            "labels": (count,),
            "probs": (count, self.num_clusters),
            "coordinates": (count, 2),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise DataError(f"{name}: expected {list(shape)}, got {list(array.shape)}.")
        for name in ("confidence", "probs", "coordinates"):
            array = getattr(self, name)
            if array is not None and not np.isfinite(array).all():
                raise DataError(f"{name}: expected finite numbers.")
        lengths = {"names": count, "features": count, "cluster_names": self.num_clusters}
        for name, length in lengths.items():
            values = getattr(self, name)
            if values is not None and len(values) != length:
                raise DataError(f"{name}: expected {length} of them, got {len(values)}.")

    def cluster_name(self, cluster: int) -> str:
        """`Cluster 3`, or the name that it was given."""
        given = self.cluster_names[cluster] if self.cluster_names is not None else ""
        return given or f"Cluster {cluster}"

    def cluster_colours(self) -> np.ndarray:
        """Colours of the clusters, float32 [C,3]: those of their classes where labels are known."""
        count = len(self.class_names)
        return colours.of_clusters(self.clusters, self.num_clusters, self.labels, count)

    def image_name(self, row: int) -> str:
        """Its path, or `image 17`."""
        return self.names[row] if self.names is not None else f"image {row}"
