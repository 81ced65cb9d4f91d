"""A first look at what the pretext learns: `preview.png`, the neighbours of a few images."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from scan_tf.evaluation import pictures
from scan_tf.features.embedding import embed
from scan_tf.features.search import exact
from scan_tf.methods.task import Pretext
from scan_tf.pipeline.run_dir import Run
from scan_tf.training.loop import EpochHook

# Drawn at the end of the epoch after so many seconds, and at the end of the stage.
_AFTER_S = 120.0
_IMAGES = 2000
# A mosaic of 40 has 8 columns.
_QUERIES, _COLUMNS = 5, 8


class Preview:
    """Draws `RUN/preview.png` between epochs; hands on the metrics and record of another hook.

    Args:
        run: the run.
        task: the pretext in training.
        hook: called after every epoch, or None.
    """

    def __init__(self, run: Run, task: Pretext, hook: EpochHook | None):
        self.run, self.task, self.hook = run, task, hook
        self.record: dict[str, Any] = hook.record if hook else {}
        self._due = time.monotonic() + _AFTER_S
        self._drawn = False

    def __call__(self, epoch: int) -> dict[str, float]:
        """The metrics of the other hook."""
        metrics = self.hook(epoch) if self.hook else {}
        last = epoch == self.run.config.pretext.epochs
        if last or (not self._drawn and time.monotonic() > self._due):
            self._drawn = True
            self._draw(epoch)
        return metrics

    def _draw(self, epoch: int) -> None:
        images = self.run.train_images
        rows = np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).astype(int)
        shown = images.subset(rows)
        network = tf.function(
            self.task.embed, jit_compile=self.run.device.jit_step, autograph=False
        )
        features = embed(network, shown, **self.run.inference(None))
        count = min(len(shown), _COLUMNS)
        queries = np.linspace(0, len(shown) - 1, min(len(shown), _QUERIES)).astype(int)
        found, similarity = exact(features, features[queries], count)
        captions = [
            "image" if column == 0 else f"{value:.2f}"
            for row in similarity
            for column, value in enumerate(row)
        ]
        path = self.run.root / "preview.png"
        title = f"An image and its neighbours, after epoch {epoch} of the pretext"
        pictures.contact_sheet(path, shown.images[found.reshape(-1)], captions, title)
        if self.run.config.runtime.progress:
            tqdm.write(f"  a first look at the features: {path}")
