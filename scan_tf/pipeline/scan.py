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
from scan_tf.models.backbone import Backbone
from scan_tf.models.frozen import Frozen
from scan_tf.models.heads import ClusterHeads, new_heads
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
    checked = validation(run)
    held_out = checked.held_out
    kept = train.subset(~held_out) if held_out.any() else train
    order = learning.new_order(run, "scan", len(kept), restrict(indices, ~held_out))

    backbone = build.trained_pretext(run).backbone
    heads = new_heads(backbone, config.num_heads, run.num_clusters)
    if config.head_epochs:
        _warm_up_heads(run, backbone, heads, kept, ~held_out, order)
    cached = isinstance(backbone, Frozen) or (config.freeze_backbone and config.cached_views > 0)
    task = build.new_clustering(run, backbone, heads, cached=cached)
    loader: Batches
    if cached:
        features = _cached_features(run, backbone, kept, ~held_out)
        loader = CachedLoader(features, task.views, order)
    else:
        loader = learning.new_loader(run, "scan", kept, task, order=order)
    selection = Selection(run, task, checked)
    learning.train(run, config, folder, task, loader, hook=selection)

    best = selection.best
    load_weights(selection.path, task.networks)
    kept_networks = {"backbone": backbone, "heads": heads.keep(best["head"])}
    save_weights(folder / "weights.npz", kept_networks, extra=best)
    files.write_text(folder / "best.json", json.dumps(best, indent=2) + "\n")
    print(f"  kept epoch {best['epoch']}, head {best['head']} (selected on {config.selection})")
    return {"selection": config.selection, **best}


def _warm_up_heads(
    run: Run,
    backbone: Backbone,
    heads: ClusterHeads,
    images: ImageSet,
    kept: np.ndarray,
    order: Order,
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
    task = build.new_clustering(run, backbone, heads, cached=True, config=config)
    features = _cached_features(run, backbone, images, kept)
    loader = CachedLoader(features, task.views, order)
    learning.train(run, config, folder, task, loader)
    save_weights(folder / "weights.npz", {"heads": heads})


def _cached_features(
    run: Run, backbone: Backbone, images: ImageSet, kept: np.ndarray
) -> np.ndarray:
    """Features of `cached_views` augmented views of every image, float32 `[V, N, D]`.

    Of a frozen network that is not to be shown augmented views, those that are stored.

    Args:
        run: the run.
        backbone: the network.
        images: N training images.
        kept: bool, which of all training images these are.
    """
    config = run.config
    plain = not config.scan.cached_views or config.scan.augmentation == "none"
    if isinstance(backbone, Frozen) and plain:
        return neighbors.features(run)["train"][None, kept]
    count = max(1, config.scan.cached_views)
    policy = compiled(
        policies.make(
            config.scan.augmentation, config.augment, size=images.image_size, mean=images.mean
        ),
        run.device,
    )
    views = [
        embed(
            backbone.embed,
            images,
            policy=policy,
            seed=run.seed("scan") ^ view,
            **run.inference(f"view {view + 1} of {count}"),
        )
        for view in range(count)
    ]
    return np.stack(views)
