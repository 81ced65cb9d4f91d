"""The stage `scan`: an image and its neighbours agree, and every cluster is used."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from scan_tf import files
from scan_tf.augment import policies
from scan_tf.data.image_set import ImageSet
from scan_tf.features.embedding import embed
from scan_tf.features.neighbors import restrict
from scan_tf.methods.clustering.scan import ScanTask
from scan_tf.models.heads import ClusterHeads, new_heads
from scan_tf.models.resnet import ResNet
from scan_tf.models.weights import load_weights, save_weights
from scan_tf.pipeline import build, learning, neighbors
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.selection import Best, Selection, validation
from scan_tf.training.loader import CachedLoader, Order, compiled
from scan_tf.training.loop import Batches


class Result(Best):
    """What was kept, and on which images it was selected."""

    selection: str


def run(run: Run) -> Result:
    """Train the cluster heads, and the backbone with them; keep the best epoch and head."""
    indices = neighbors.mined(run).indices
    config, folder, train = run.config.scan, run.folder("scan"), run.train_images
    checked, checked_neighbors, held_out = validation(run)
    kept = train.subset(~held_out) if held_out.any() else train
    order = learning.new_order(run, "scan", len(kept), restrict(indices, ~held_out))

    backbone = build.trained_pretext(run).backbone
    heads = new_heads(backbone, config.num_heads, run.num_clusters)
    if config.head_epochs:
        _warm_up_heads(run, backbone, heads, kept, order)
    cached = config.freeze_backbone and config.cached_views > 0
    task = ScanTask(config, backbone, heads, cached=cached)
    loader: Batches
    if cached:
        loader = CachedLoader(_cached_features(run, backbone, kept), task.views, order)
    else:
        loader = learning.new_loader(run, "scan", kept, task, order=order)
    selection = Selection(run, task, checked, checked_neighbors)
    learning.train(run, config, folder, task, loader, hook=selection)

    best = selection.best
    load_weights(selection.path, task.networks)
    kept_networks = {"backbone": backbone, "heads": heads.keep(best["head"])}
    save_weights(folder / "weights.npz", kept_networks, extra=best)
    files.write_text(folder / "best.json", json.dumps(best, indent=2) + "\n")
    print(f"  kept epoch {best['epoch']}, head {best['head']} (selected on {config.selection})")
    return {"selection": config.selection, **best}


def _warm_up_heads(
    run: Run, backbone: ResNet, heads: ClusterHeads, images: ImageSet, order: Order
) -> None:
    """Train the heads alone for `head_epochs` on cached features; done once."""
    folder = run.folder("scan") / "heads"
    if (folder / "weights.npz").exists():
        load_weights(folder / "weights.npz", {"heads": heads})
        return
    config = dataclasses.replace(
        run.config.scan,
        epochs=run.config.scan.head_epochs,
        optimizer=dataclasses.replace(run.config.scan.optimizer, lr=run.config.scan.head_lr),
        freeze_backbone=True,
    )
    task = ScanTask(config, backbone, heads, cached=True)
    loader = CachedLoader(_cached_features(run, backbone, images), task.views, order)
    learning.train(run, config, folder, task, loader)
    save_weights(folder / "weights.npz", {"heads": heads})


def _cached_features(run: Run, backbone: ResNet, images: ImageSet) -> np.ndarray:
    """Features of `cached_views` augmented views of every image, float32 `[V, N, D]`."""
    config = run.config
    count = max(1, config.scan.cached_views)
    policy = compiled(
        policies.make(
            config.scan.augmentation, config.augment, size=images.image_size, mean=images.mean
        ),
        run.device,
    )
    views = [
        embed(
            lambda x: backbone(x, training=False),
            images,
            policy=policy,
            seed=run.seed("scan") ^ view,
            **run.inference(f"view {view + 1} of {count}"),
        )
        for view in range(count)
    ]
    return np.stack(views)
