"""The stage `selflabel`: what the clustering is sure of teaches the network."""

from __future__ import annotations

from typing import Any

import numpy as np

from scan_tf.errors import NothingLearned
from scan_tf.features.embedding import head_probs
from scan_tf.methods.task import SelfLabel
from scan_tf.models.weights import load_weights, save_weights
from scan_tf.pipeline import build, calibrate, features, learning, neighbors
from scan_tf.pipeline.guard import Guard
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.selection import held_out
from scan_tf.storage.files import read_metrics
from scan_tf.training.loader import CachedLoader
from scan_tf.training.loop import Batches


def run(run: Run) -> dict[str, Any]:
    """Fine-tune backbone and head on their own predictions."""
    run.require("scan")
    config, folder = run.config.selflabel, run.folder("selflabel")
    replicas = learning.replicas_of(run, "selflabel")
    with replicas.scope():
        task = build.new_selflabel(run, *build.trained_clusters(run, "scan"))
    if config.cached_views:
        task.cached = True
    guard = None if config.guard == "none" else Guard(run, task)
    if guard and guard.refuses():
        return guard.outcome()
    if task.needs_clustering:
        run.require("neighbors")
        probs, mined = _probs(run, task), neighbors.mined(run).indices
        with replicas.scope():
            task.begin(probs, mined)
    loader = _loader(run, task)
    try:
        learning.train(run, config, folder, task, loader, hook=guard)
    except NothingLearned:
        task.account(read_metrics(folder / "metrics.jsonl"))  # which says why, and what to do
        raise
    task.finish()
    result = {} if guard is None else guard.outcome()
    if result.get("kept_epoch"):
        kept_of = load_weights(folder / "best.npz", task.networks)
        if kept_of and kept_of["epoch"] != result["kept_epoch"]:
            # Of a later epoch, after which the program was killed and which came out otherwise.
            result |= {"kept_epoch": kept_of["epoch"], "alarms_after": kept_of}
    save_weights(folder / "weights.npz", task.networks)
    return {
        **task.account(read_metrics(folder / "metrics.jsonl")),
        **_calibrated(run, task),
        **result,
    }


def _loader(run: Run, task: SelfLabel) -> Batches:
    """Images, or where they stay the same features of some views of each; and of it as it is."""
    config, images = run.config.selflabel, run.train_images
    if not config.cached_views:
        return learning.new_loader(run, "selflabel", images, task)
    plain = features.of_backbone(run, task.backbone, images, "features")[None]
    policy, count = config.augmentation, config.cached_views
    views = features.of_views(run, task.backbone, images, policy, count, "selflabel")
    rows = {name: views if v.policy == policy else plain for name, v in task.views.items()}
    return CachedLoader(rows, task.views, learning.new_order(run, "selflabel", len(images)))


def _calibrated(run: Run, task: SelfLabel) -> dict[str, Any]:
    """The temperature of the clustering, where neighbours are known."""
    if not run.is_done("neighbors"):
        return {}
    mined, k = neighbors.mined(run).indices, run.config.neighbors.k_validation
    return dict(calibrate.of_clustering(_probs(run, task), mined, held_out(run), k=k))


def _probs(run: Run, task: SelfLabel) -> np.ndarray:
    """Float32 [N,C] of the training images, by the networks as they are."""
    rows = features.of_backbone(run, task.backbone, run.train_images, "features")
    return head_probs(task.networks["heads"], rows)[0]
