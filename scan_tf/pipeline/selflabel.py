"""The stage `selflabel`: what the clustering is sure of teaches the network."""

from __future__ import annotations

from typing import Any

from scan_tf.errors import NothingLearned
from scan_tf.files import read_metrics
from scan_tf.models.weights import save_weights
from scan_tf.pipeline import build, learning
from scan_tf.pipeline.run_dir import Run


def run(run: Run) -> dict[str, Any]:
    """Fine-tune backbone and head on their own predictions."""
    run.require("scan")
    config, images, folder = run.config.selflabel, run.train_images, run.folder("selflabel")
    task = build.new_selflabel(run, *build.trained_clusters(run, "scan"))
    loader = learning.new_loader(run, "selflabel", images, task)
    try:
        learning.train(run, config, folder, task, loader)
    except NothingLearned:
        task.account(read_metrics(folder / "metrics.jsonl"))  # which says why, and what to do
        raise
    task.finish()
    save_weights(folder / "weights.npz", task.networks)
    return task.account(read_metrics(folder / "metrics.jsonl"))
