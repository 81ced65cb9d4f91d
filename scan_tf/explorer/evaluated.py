"""What an evaluation has left of a run, and the classifier that holds in it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, cast

import numpy as np

from scan_tf.data.decoding import Limits
from scan_tf.data.image_set import ImageSet, Split
from scan_tf.errors import DataError, StageError
from scan_tf.evaluation import assignments, colours
from scan_tf.explorer.pictures import Pictures
from scan_tf.features.rows import unit
from scan_tf.pipeline import corrected, doubt, embeddings, reports
from scan_tf.pipeline.run_dir import Run


class Evaluated:
    """N images of an evaluated run.

    Args:
        run: the run.

    Attributes:
        split: of the images.
        found: what the evaluation found of them; see `reread`.
        classifier: the corrected one that holds; None: the run's own clustering does.
        pictures: of the images.
        paths: of the images, as their tables have them.

    Raises:
        StageError: it was not evaluated, or a file of it is damaged.
    """

    def __init__(self, run: Run):
        self.run = run
        self._folder = embeddings.folder_of(run, None)
        self.reread()
        self.paths = [row.path for row in assignments.read(self._folder / assignments.FILE)]
        if len(self.paths) != len(self.found.features):
            raise StageError(
                f"{self._folder}: {assignments.FILE} has {len(self.paths)} rows, "
                f"{embeddings.FILE} {len(self.found.features)}. Make them anew: --redo evaluate."
            )
        self.split = str(reports.read(run)["split"])
        data = run.config.data
        root = Path(data.path or "").absolute()
        files = [root / path for path in self.paths] if self.found.are_files else None
        limits = Limits(data.max_megapixels, data.decode_mib)
        self.pictures = Pictures(files, self._images, limits)

    def reread(self) -> None:
        """Read what may have been written again."""
        self.found = embeddings.load(self._folder)
        self.classifier = corrected.load(self.run, warn=True)

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """Unit rows of the features, float32 [N,D]."""
        return unit(self.found.features)

    @property
    def own(self) -> np.ndarray:
        """The probabilities of the run's own clusters, float32 [N,C]."""
        found = self.found
        return found.probs if found.own_probs is None else found.own_probs

    @property
    def columns(self) -> list[int]:
        """The group of each cluster of the classifier that holds."""
        if self.classifier is not None:
            return list(self.classifier.groups)
        return list(range(self.own.shape[1]))

    @functools.cached_property
    def colours(self) -> list[str]:
        """Of the run's own clusters, as its report shows them, `#rrggbb`."""
        found, probs = self.found, self.own
        shown = colours.of_clusters(
            probs.argmax(axis=1), probs.shape[1], found.labels, len(found.class_names)
        )
        return [colours.as_hex(colour) for colour in shown]

    @property
    def doubt(self) -> tuple[float, float] | None:
        """The thresholds of confidence and distance; None where the evaluation found none."""
        found = doubt.load(self.run)
        return None if found is None else (found.below, found.far)

    @property
    def name(self) -> str:
        """Of the images."""
        data = self.run.config.data
        return Path(data.path).resolve().name if data.path else data.name

    def what(self) -> dict[str, Any]:
        """What tells these clusters of these images from others, for the journal."""
        weights = corrected.own_weights(self.run)
        return {
            "stage": weights["stage"],
            "weights": weights["sha256"],
            "split": self.split,
            "images": len(self.paths),
            "digest": corrected.images_digest(self.run, self.split),
        }

    def points(self) -> bytes:
        """The map, float32 [N,2], little-endian, in 0..1 of its larger extent."""
        points = np.asarray(self.found.points, np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        extent = max(float((high - low).max()), 1e-12)
        return ((points - (low + high) / 2) / extent + 0.5).astype("<f4").tobytes()

    def label(self, row: int) -> str | None:
        """The true class of an image, where it is known."""
        found = self.found
        if found.labels is None or not found.class_names:
            return None
        return found.class_names[int(found.labels[row])]

    def _images(self) -> ImageSet:
        found = self.run.images(cast(Split, self.split))
        if found is None:
            raise DataError(f"{self.name}: there is no split '{self.split}' any more.")
        return found
