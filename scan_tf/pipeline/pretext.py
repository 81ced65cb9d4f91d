"""The stage `pretext`: learning features without labels; and how good they are meanwhile."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import StageError
from scan_tf.evaluation.knn import knn_accuracy
from scan_tf.features.embedding import embed
from scan_tf.methods.task import Pretext
from scan_tf.models.weights import save_weights
from scan_tf.pipeline import build, features, learning
from scan_tf.pipeline.preview import Preview
from scan_tf.pipeline.run_dir import Run
from scan_tf.training.loop import EpochHook


def run(run: Run) -> dict[str, Any]:
    """Train the networks of the pretext."""
    images, config, folder = run.pretext_images, run.config.pretext, run.folder("pretext")
    with learning.replicas_of(run, "pretext").scope():
        task = build.new_pretext(run)
    if not task.views:
        return _fit(run, task)
    loader = learning.new_loader(run, "pretext", images, task)
    hook: EpochHook | None = KnnMonitor(run, task) if config.knn_every else None
    if run.config.evaluate.pictures:
        hook = Preview(run, task, hook)
    learning.train(run, config, folder, task, loader, hook=hook)
    save_weights(folder / "weights.npz", task.networks)
    return {"images": len(images)}


def _fit(run: Run, task: Pretext) -> dict[str, Any]:
    """Fit what follows a frozen network on its features; nothing is trained."""
    backbone: Any = task.backbone
    images, known = run.train_images, backbone.provenance
    kept = backbone.fit(features.of_frozen(run, backbone, images))
    save_weights(run.folder("pretext") / "weights.npz", task.networks)
    print(f"  {known.name}: {known.trained}")
    print(f"  {backbone.feature_dim} principal components, {kept:.1%} of the variance")
    return {"images": len(images), "backbone": dataclasses.asdict(known), "variance_kept": kept}


class KnnMonitor:
    """Accuracy of the weighted kNN classifier every `pretext.knn_every` epochs and at the end.

    A curve to look at, no more than that (official configuration, which scores every epoch). The
    training images are the bank; the test images are classified, or where
    there are none the training images, each without itself.

    Args:
        run: the run.
        task: the pretext in training.

    Raises:
        StageError: the images have no labels.
    """

    def __init__(self, run: Run, task: Pretext):
        self.run = run
        self.record: dict[str, Any] = {}
        self.bank = run.train_images
        self.queries = run.images("test")
        self.bank_labels = _labels(self.bank)
        self.query_labels = _labels(self.queries or self.bank)
        self.task = task
        # Compiled once, not again after every epoch.
        self._network = tf.function(self._rows, jit_compile=run.device.jit_step, autograph=False)

    def __call__(self, epoch: int) -> dict[str, float]:
        """Accuracies in 0..1, or nothing in the epochs between.

        Returns:
            `knn_acc`, by what the pretext finds neighbours by; with the K of
            `evaluate.knn_k` in their names such as `knn_backbone_k100`, by the backbone's features
            and, where the pretext has one, by its projection.
        """
        config = self.run.config.pretext
        if epoch % config.knn_every and epoch != config.epochs:
            return {}
        bank = self._embed(self.bank)
        queries = bank if self.queries is None else self._embed(self.queries)
        k = self.run.config.evaluate.knn_k
        found = {
            name: knn_accuracy(
                rows,
                self.bank_labels,
                queries[name],
                self.query_labels,
                k=k,
                num_classes=len(self.bank.class_names),
                leave_one_out=self.queries is None,
            )
            for name, rows in bank.items()
        }
        mined = found[self.task.embedding]
        sides = {name: found[name] for name in ("backbone", "projection") if name in found}
        return {"knn_acc": mined} | {f"knn_{name}_k{k}": acc for name, acc in sides.items()}

    def _rows(self, images: tf.Tensor) -> tf.Tensor:
        """What is looked at, side by side."""
        features = self.task.backbone.embed(images)
        sides = {"backbone": tf.math.l2_normalize(features, axis=-1)}
        if self.task.projects:
            sides["projection"] = self.task.project(features)
        if self.task.embedding not in sides:
            sides[self.task.embedding] = self.task.embed(images)
        self._widths = {name: rows.shape[-1] for name, rows in sides.items()}
        return tf.concat([*sides.values()], axis=-1)

    def _embed(self, images: ImageSet) -> dict[str, np.ndarray]:
        rows = embed(self._network, images, **self.run.inference(None))
        ends = np.cumsum([*self._widths.values()])[:-1]
        return dict(zip(self._widths, np.split(rows, ends, axis=1), strict=True))


def _labels(images: ImageSet) -> np.ndarray:
    if images.labels is None:
        raise StageError(
            f"pretext.knn_every: needs labels, but '{images.name}' has none. Set it to 0."
        )
    return images.labels
