"""The stage `selflabel`: confident predictions teach strongly augmented images."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np

from scan_tf.errors import TrainingError
from scan_tf.files import read_metrics
from scan_tf.methods.selflabel.confident import SelfLabelTask
from scan_tf.models.weights import save_weights
from scan_tf.pipeline import build, learning
from scan_tf.pipeline.run_dir import Run


class Result(TypedDict):
    """How many samples were confident, 0..1, and whether that was still growing at the end."""

    confident_first: float
    confident_last: float
    # Share of the batches without a confident sample, which made no step.
    skipped_batches: float
    plateaued: bool


def run(run: Run) -> Result:
    """Fine-tune backbone and head on their own confident predictions."""
    run.require("scan")
    config, images, folder = run.config.selflabel, run.train_images, run.folder("selflabel")
    task = SelfLabelTask(config, *build.trained_clusters(run, "scan"))
    loader = learning.new_loader(run, "selflabel", images, task)
    learning.train(run, config, folder, task, loader)
    task.finish()
    save_weights(folder / "weights.npz", task.networks)
    return _account(folder / "metrics.jsonl", config.threshold)


def _account(path: Path, threshold: float) -> Result:
    rows = read_metrics(path)
    confident = [r["confident"] for r in rows]
    if max(confident) == 0:
        raise TrainingError(
            f"selflabel.threshold: no image was ever more confident than {threshold}. Lower it "
            "(and use --redo selflabel), or train the scan stage for longer."
        )
    tail = max(1, len(confident) // 5)
    gain = float(np.mean(confident[-tail:]) - np.mean(confident[-2 * tail : -tail] or confident))
    note = "the number of confident images has stopped growing" if gain < 0.005 else "still growing"
    print(f"  confident: {confident[0]:.1%} at first, {confident[-1]:.1%} at last; {note}")
    return {
        "confident_first": confident[0],
        "confident_last": confident[-1],
        "skipped_batches": float(np.mean([r["skipped"] for r in rows])),
        "plateaued": gain < 0.005,
    }
