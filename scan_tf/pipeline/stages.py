"""The stages, in their order, each from what the ones before it left in the run directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from scan_tf import files
from scan_tf.augment import policies
from scan_tf.config import Config, TrainConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import TrainingError
from scan_tf.evaluation import report
from scan_tf.features import neighbors
from scan_tf.features.embedding import embed, predict
from scan_tf.files import read_metrics
from scan_tf.methods import catalog
from scan_tf.methods.task import Task
from scan_tf.models.backbone import Backbone
from scan_tf.models.heads import ClusterHeads, new_heads
from scan_tf.models.weights import load_weights, save_weights
from scan_tf.pipeline import baselines, build, result_page, savedmodel
from scan_tf.pipeline.monitor import KnnMonitor
from scan_tf.pipeline.run_dir import STAGES, TITLES, Run
from scan_tf.pipeline.selection import Selection, validation
from scan_tf.training.loader import CachedLoader, Loader, Order, compiled
from scan_tf.training.loop import Batches, EpochHook, Trainer


def run(config: Config, root: Path | str) -> dict[str, Any]:
    """Run every stage that is not done yet.

    Args:
        config: the experiment.
        root: the run directory.

    Returns:
        The report of the evaluation.

    Raises:
        ScanError: bad settings or data, a missing data set, or an interruption; what was computed
            stays in the run directory, and the same call goes on from there.
    """
    work = Run(config, Path(root))
    run_all(work)
    return report.read(work)


def run_all(work: Run) -> None:
    """`run` for a run directory that is open already; raises as it does."""
    if not work.is_done("pretext"):
        # Refuse now what a later stage would refuse, after hours of training.
        train, evaluated = work.train_images, report.evaluated_images(work)
        print(
            f"{train.name}: {len(train):,} images to train on, {len(evaluated):,} to evaluate, "
            f"{work.num_clusters} clusters"
        )
    for stage in STAGES:
        run_stage(work, stage)


def run_stage(work: Run, stage: str) -> None:
    """Run one stage, unless it is done. Raises StageError when its input is missing."""
    if work.is_done(stage):
        seconds = work.record(stage)["wall_time_s"]
        print(f"{stage}: done before, in {seconds:.0f} s; skipped.")
        return
    work.write_config()
    print(f"{stage}: {TITLES[stage]}")
    with work.working(stage) as result:
        keras.utils.set_random_seed(work.seed(stage))
        result.update(_FUNCTIONS[stage](work))


def evaluate_split(work: Run, split: str) -> None:
    """Evaluate a split, such as "test"; another than the stage's in a folder beside it.

    Raises StageError when the data set has no such split, or when nothing was clustered.
    """
    if split == report.evaluated_split(work):
        run_stage(work, "evaluate")
    else:
        _evaluate(work, split)
    print(f"\nreport and pictures: {report.folder_of(work, split)}")


def _pretext(work: Run) -> dict[str, Any]:
    """Learning features without labels."""
    images = work.pretext_images
    task = build.new_pretext(work)
    folder = work.folder("pretext")
    loader = _loader(work, "pretext", images, task)
    monitor = KnnMonitor(work, task) if work.config.pretext.knn_every else None
    _train(work, work.config.pretext, folder, task, loader, hook=monitor)
    save_weights(folder / "weights.npz", task.networks)
    return {"images": len(images)}


def _neighbors(work: Run) -> dict[str, Any]:
    """Finding the nearest neighbours of every training image."""
    work.require("pretext")
    folder = work.folder("neighbors")
    task = build.trained_pretext(work)
    embedded = {
        split: embed(task.embed, images, **work.inference(f"features of {split}"))
        for split in ("train", "test")
        if (images := work.images(split)) is not None
    }
    files.write_npz(folder / "features.npz", embedded, {})
    mined = neighbors.mine(
        embedded["train"],
        work.config.neighbors,
        k=work.config.neighbors.k,
        seed=work.seed("neighbors"),
        index_path=folder / "index.ann",
        progress=work.config.runtime.progress,
    )
    neighbors.save(folder / "train.npz", mined)
    print(f"  {mined.index} ({mined.reason}); recall {mined.recall:.3f}")
    return {"index": mined.index, "reason": mined.reason, "recall": mined.recall}


def _scan(work: Run) -> dict[str, Any]:
    """Clustering: an image and its neighbours agree, and every cluster is used."""
    work.require("neighbors")
    config, folder = work.config.scan, work.folder("scan")
    train, mined = work.train_images, neighbors.load(work.folder("neighbors") / "train.npz")
    checked, checked_neighbors, held_out = validation(work)
    kept = train.subset(~held_out) if held_out.any() else train
    indices = neighbors.restrict(mined.indices, ~held_out)

    backbone = build.trained_pretext(work).backbone
    heads = new_heads(backbone, config.num_heads, work.num_clusters)
    order = _order(work, "scan", len(kept), indices)
    if config.head_epochs:
        _warm_up_heads(work, backbone, heads, kept, order)
    cached = config.freeze_backbone and config.cached_views > 0
    task = build.new_clustering(work, backbone, heads, cached=cached)
    loader: Batches
    if cached:
        loader = CachedLoader(_cached_features(work, backbone, kept), task.views, order)
    else:
        loader = _loader(work, "scan", kept, task, order=order)
    selection = Selection(work, task, checked, checked_neighbors)
    _train(work, config, folder, task, loader, hook=selection)

    best = selection.record
    load_weights(selection.path, task.networks)
    kept_networks = {"backbone": backbone, "heads": heads.keep(best["head"])}
    save_weights(folder / "weights.npz", kept_networks, extra=best)
    files.write_text(folder / "best.json", json.dumps(best, indent=2) + "\n")
    print(f"  kept epoch {best['epoch']}, head {best['head']} (selected on {config.selection})")
    return {"selection": config.selection, **best}


def _selflabel(work: Run) -> dict[str, Any]:
    """Self-labelling: confident predictions teach strongly augmented images."""
    work.require("scan")
    config, images = work.config.selflabel, work.train_images
    backbone, heads = build.trained_clusters(work, "scan")
    task = build.new_selflabel(work, backbone, heads)
    folder = work.folder("selflabel")
    _train(work, config, folder, task, _loader(work, "selflabel", images, task))
    task.finish()
    save_weights(folder / "weights.npz", task.networks)
    return _account(work)


def _evaluate(work: Run, split: str | None = None) -> dict[str, Any]:
    """Scores, pictures and the report."""
    split = split or report.evaluated_split(work)
    images, predictions = report.images_of(work, split), {}
    for stage in [s for s in ("scan", "selflabel") if work.is_done(s)] or ["scan"]:
        work.require(stage)
        backbone, heads = build.trained_clusters(work, stage)
        probs, embedded = predict(backbone, heads, images, **work.inference(stage))
        predictions[stage] = (probs[0], embedded)
    # Where the clustering was imported there is no pretext.
    pretext = build.trained_pretext(work) if work.is_done("pretext") else None
    found, folder = baselines.score(work, images, pretext), report.folder_of(work, split)
    result = report.write(work, predictions, found, split=split, folder=folder)
    result_page.write(work, images, probs[0], embedded, folder)
    return result


def _export(work: Run) -> dict[str, Any]:
    """Writing the SavedModel, and checking that it computes the same."""
    stage = "selflabel" if work.is_done("selflabel") else "scan"
    work.require(stage)
    backbone, heads = build.trained_clusters(work, stage)
    images, folder = work.train_images, work.folder("export")
    savedmodel.save(folder, backbone, heads)
    checked = savedmodel.check(folder, backbone, heads, images.images[:64])
    return {"weights_of": stage, **checked}


_FUNCTIONS: Mapping[str, Callable[[Run], dict[str, Any]]] = {
    "pretext": _pretext,
    "neighbors": _neighbors,
    "scan": _scan,
    "selflabel": _selflabel,
    "evaluate": _evaluate,
    "export": _export,
}


def _order(work: Run, stage: str, num_images: int, neighbors: np.ndarray | None = None) -> Order:
    return Order(
        num_images,
        getattr(work.config, stage).batch_size,
        seed=work.seed(stage),
        neighbors=neighbors,
        setting=f"{stage}.batch_size",
    )


def _loader(
    work: Run, stage: str, images: ImageSet, task: Task, *, order: Order | None = None
) -> Loader:
    return Loader(
        images,
        task.views,
        order or _order(work, stage, len(images)),
        normalise=task.normalise,
        augment_config=work.config.augment,
        runtime=work.config.runtime,
        device=work.device,
    )


def _warm_up_heads(
    work: Run, backbone: Backbone, heads: ClusterHeads, images: ImageSet, order: Order
) -> None:
    """Train the heads alone for `head_epochs` on cached features; done once."""
    folder = work.folder("scan") / "heads"
    if (folder / "weights.npz").exists():
        load_weights(folder / "weights.npz", {"heads": heads})
        return
    config = dataclasses.replace(
        work.config.scan,
        epochs=work.config.scan.head_epochs,
        optimizer=dataclasses.replace(work.config.scan.optimizer, lr=work.config.scan.head_lr),
        freeze_backbone=True,
    )
    method = catalog.method_class("clustering", config.name)
    task = method(config, backbone, heads, cached=True)
    features_of_views = _cached_features(work, backbone, images)
    _train(work, config, folder, task, CachedLoader(features_of_views, task.views, order))
    save_weights(folder / "weights.npz", {"heads": heads})


def _cached_features(work: Run, backbone: Backbone, images: ImageSet) -> np.ndarray:
    """Features of `cached_views` augmented views of every image, float32 `[V, N, D]`."""
    config = work.config
    count = max(1, config.scan.cached_views)
    policy = compiled(
        policies.make(
            config.scan.augmentation, config.augment, size=images.image_size, mean=images.mean
        ),
        work.device,
    )
    views = [
        embed(
            backbone.embed,
            images,
            policy=policy,
            seed=work.seed("scan") ^ view,
            **work.inference(f"view {view + 1} of {count}"),
        )
        for view in range(count)
    ]
    return np.stack(views)


def _train(
    work: Run,
    config: TrainConfig,
    folder: Path,
    task: Task,
    loader: Batches,
    *,
    hook: EpochHook | None = None,
) -> None:
    Trainer(
        task, loader, config, folder,
        runtime=work.config.runtime, device=work.device, hook=hook,
    ).run()  # fmt: skip


def _account(work: Run) -> dict[str, Any]:
    """How many samples were confident, and whether the stage was still improving at its end."""
    rows = read_metrics(work.folder("selflabel") / "metrics.jsonl")
    confident = [r["confident"] for r in rows]
    if max(confident) == 0:
        raise TrainingError(
            f"selflabel.threshold: no image was ever more confident than "
            f"{work.config.selflabel.threshold}. Lower it (and use --redo selflabel), or train "
            "the scan stage for longer."
        )
    tail = max(1, len(confident) // 5)
    gain = float(np.mean(confident[-tail:]) - np.mean(confident[-2 * tail : -tail] or confident))
    skipped = float(np.mean([r["skipped"] for r in rows]))
    note = "the number of confident images has stopped growing" if gain < 0.005 else "still growing"
    print(f"  confident: {confident[0]:.1%} at first, {confident[-1]:.1%} at last; {note}")
    return {
        "confident_first": confident[0],
        "confident_last": confident[-1],
        "skipped_batches": skipped,
        "plateaued": gain < 0.005,
    }
