"""The stage `scan`: an image and its neighbours agree, and every cluster is used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import consensus
from scan_tf.evaluation.consensus import Consensus
from scan_tf.features.embedding import head_probs
from scan_tf.features.neighbors import restrict
from scan_tf.features.rows import unit
from scan_tf.methods import catalog
from scan_tf.methods.task import Clustering, DirectClustering
from scan_tf.models.backbone import Backbone, assign
from scan_tf.models.frozen import Frozen
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.weights import load_weights, save_weights
from scan_tf.pipeline import build, calibrate, features, learning, neighbors
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.selection import Best, Selection, validation
from scan_tf.storage import files
from scan_tf.training.loader import CachedLoader, Order
from scan_tf.training.loop import Batches


class Result(Best):
    """What was kept, and on which images it was selected."""

    selection: str
    combine: str
    # Mean NMI of two heads, and the deviation of theirs with what they have in common; one head: 1.
    agreement: float
    spread: float
    # What stands out of the heads, in sentences.
    warnings: list[str]


def run(run: Run) -> Mapping[str, Any]:
    """Train the cluster heads, and the backbone with them; keep the best epoch and head."""
    config, folder = run.config.scan, run.folder("scan")
    if issubclass(catalog.method_class("clustering", config.name), DirectClustering):
        return _direct(run)
    task, loader, selection = prepared(run, folder)
    learning.train(run, config, folder, task, loader, hook=selection)

    backbone, heads = task.backbone, task.heads
    best = selection.best
    kept_of = load_weights(selection.path, task.networks)
    if kept_of and kept_of != best:  # of a later epoch, after which the program was killed
        best = cast(Best, kept_of)
    if selection.settled:
        count, most = len(selection.record["settling"]), config.epochs
        print(f"  the consistency has settled: {count} of at most {most} epochs")
    rows = features.of_backbone(run, backbone, run.train_images, "features")
    kept_head, found = _combine(run, rows, heads, best["head"])
    calibrated = _calibrated(run, kept_head, rows, selection)
    save_weights(
        folder / "weights.npz", {"backbone": backbone, "heads": kept_head}, extra=dict(best)
    )
    files.write_text(folder / "best.json", json.dumps(best, indent=2) + "\n")
    print(f"  kept epoch {best['epoch']}, head {best['head']} (selected on {config.selection})")
    for sentence in selection.warnings:
        print(f"  warning: {sentence}")
    if config.num_heads > 1:
        print(
            f"  {config.num_heads} heads agree with each other by NMI {found.agreement:.3f}, with "
            f"what they have in common +-{found.spread:.3f}"
        )
    if config.combine == "consensus":
        print("  in place of that head: a classifier of what all heads agree on")
    result: Result = {
        "selection": config.selection,
        "combine": config.combine,
        "agreement": found.agreement,
        "spread": found.spread,
        "warnings": selection.warnings,
        **best,
    }
    return {**result, **calibrated}


def _calibrated(
    run: Run, head: ClusterHeads, rows: np.ndarray, selection: Selection
) -> calibrate.Calibrated:
    """The temperature of the kept head; `rows`: features of the training images."""
    mined, k = neighbors.mined(run).indices, run.config.neighbors.k_validation
    held_out = selection.checked.held_out
    return calibrate.of_clustering(head_probs(head, rows)[0], mined, held_out, k=k)


def _direct(run: Run) -> Mapping[str, Any]:
    """Cluster all images at once, and fit the one head on what was found."""
    config, seed, folder = run.config.scan, run.seed("scan"), run.folder("scan")
    backbone = build.trained_pretext(run).backbone
    task = build.new_clustering(run, backbone, build.new_heads(run, backbone, 1))
    assert isinstance(task, DirectClustering)  # noqa: S101 - asked for by `run`
    rows = features.of_backbone(run, backbone, run.train_images, "features")
    clusters = task.assign(unit(rows), neighbors.mined(run).indices, seed=seed)
    found = Consensus(clusters, np.ones(len(clusters)), 1.0, 0.0)
    heads = ClusterHeads.linear(*consensus.classifier(rows, found, run.num_clusters, seed=seed))
    task.networks = {"backbone": backbone, "heads": heads}
    selection = Selection(run, task, validation(run), folder / "best.npz")
    selection(epoch=1)
    best = selection.best
    save_weights(folder / "weights.npz", task.networks, extra=dict(best))
    files.write_text(folder / "best.json", json.dumps(best, indent=2) + "\n")
    result: Result = {
        "selection": config.selection,
        "combine": config.combine,
        "agreement": 1.0,
        "spread": 0.0,
        "warnings": selection.warnings,
        **best,
    }
    return {**result, **_calibrated(run, heads, rows, selection)}


def prepared(run: Run, folder: Path) -> tuple[Clustering, Batches, Selection]:
    """The task of the stage, its batches, and the choice among its epochs and heads.

    Heads that are to be trained alone first have been, in `folder`.
    """
    indices = neighbors.mined(run).indices
    config, train = run.config.scan, run.train_images
    checked = validation(run)
    held_out = checked.held_out
    kept = train.subset(~held_out) if held_out.any() else train
    near = restrict(indices, ~held_out)
    if not catalog.method_class("clustering", config.name).draws_itself:
        near = near[:, 1:]
    order = learning.new_order(run, "scan", len(kept), near)

    replicas = learning.replicas_of(run, "scan")
    with replicas.scope():
        backbone = build.trained_pretext(run).backbone
    heads = build.new_heads(run, backbone, config.num_heads)
    if config.head_epochs:
        _warm_up_heads(run, backbone, heads, kept, ~held_out, order, folder / "heads")
    if replicas.count > 1:  # those that learn alone do so on one device
        with replicas.scope():
            alone, heads = heads, build.new_heads(run, backbone, config.num_heads)
        assign(heads, alone)
    still = config.freeze_backbone or not backbone.trainable_variables
    cached = still and (isinstance(backbone, Frozen) or config.cached_views > 0)
    with replicas.scope():
        task = build.new_clustering(run, backbone, heads, cached=cached)
    loader: Batches
    if cached:
        views = _cached_features(run, backbone, kept, ~held_out)
        loader = CachedLoader(dict.fromkeys(task.views, views), task.views, order)
    else:
        loader = learning.new_loader(run, "scan", kept, task, order=order)
    return task, loader, Selection(run, task, checked, folder / "best.npz")


def _combine(
    run: Run, rows: np.ndarray, heads: ClusterHeads, best: int
) -> tuple[ClusterHeads, Consensus]:
    """The one head that is kept, and what all of them have in common; `rows`: features."""
    config, seed = run.config.scan, run.seed("scan")
    if config.combine == "best_head":
        some = consensus.enough(len(rows), config.num_heads, run.num_clusters, seed=seed)
        return heads.keep(best), consensus.of_heads(head_probs(heads, rows[some]), seed=seed)
    found = consensus.of_heads(head_probs(heads, rows), seed=seed)
    kernel, bias = consensus.classifier(rows, found, run.num_clusters, seed=seed)
    return ClusterHeads.linear(kernel, bias), found


def _warm_up_heads(
    run: Run,
    backbone: Backbone,
    heads: ClusterHeads,
    images: ImageSet,
    kept: np.ndarray,
    order: Order,
    folder: Path,
) -> None:
    """Train the heads alone for `head_epochs` on cached features; done once."""
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
    views = _cached_features(run, backbone, images, kept)
    loader = CachedLoader(dict.fromkeys(task.views, views), task.views, order)
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
    return features.of_views(run, backbone, images, config.scan.augmentation, count, "scan")
