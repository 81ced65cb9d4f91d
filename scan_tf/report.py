"""The evaluation stage: `eval/report.json`, the table of scores, and the pictures.

Labels are read here and nowhere else. Without labels the same report says what can be known
without them, and every score that needs labels is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import charts, checkpoint, evaluate, neighbors, pictures
from scan_tf.data import ImageSet
from scan_tf.errors import StageError
from scan_tf.runs import STAGES, Run
from scan_tf.train import read_metrics

# Cluster probabilities float32 [N,C] and features float32 [N,D] of a stage.
Prediction = tuple[np.ndarray, np.ndarray]
_SHEET_IMAGES = 36


def evaluated_split(work: Run) -> str:
    """`evaluate.split`, where `auto` is the test split if the data set has one."""
    split = work.config.evaluate.split
    if split == "auto":
        return "train" if work.images("test") is None else "test"
    return split


def evaluated_images(work: Run) -> ImageSet:
    """The images to score. Raises StageError when the data set has no such split."""
    split = evaluated_split(work)
    images = work.images("test" if split == "test" else "train")
    if images is None:
        raise StageError(f"evaluate.split: '{work.config.data.name}' has no split '{split}'.")
    return images


def write(work: Run, predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """Score the predictions, write `report.json` and the pictures, print the table.

    Args:
        work: the run.
        predictions: of `scan` and, where it ran, `selflabel`, on the evaluated images.

    Returns:
        The report.
    """
    images = evaluated_images(work)
    report: dict[str, Any] = {
        "data": work.config.data.name,
        "split": evaluated_split(work),
        "num_images": len(images),
        "seed": work.config.seed,
        "num_clusters": work.num_clusters,
        "selection": work.config.scan.selection,
        "skipped_files": list(images.skipped),
    }
    report |= _baselines(work, images)
    report |= {"scan": None, "selflabel": None}
    for stage, (probs, embedded) in predictions.items():
        report[stage] = _clustering(work, images, probs, embedded) | work.record(stage)["result"]
    before = [s for s in STAGES if s not in ("evaluate", "export")]
    report["wall_time_s"] = {s: work.record(s).get("wall_time_s") for s in before}
    text = json.dumps(report, indent=2)
    checkpoint.write_text(work.folder("evaluate") / "report.json", text + "\n")
    _write_assignments(work, images, predictions)
    if work.config.evaluate.pictures:
        _draw(work, images, *list(predictions.values())[-1])
    print(table(report))
    return {"split": report["split"]}


def read(work: Run) -> dict[str, Any]:
    """The report of a run. Raises StageError when there is none."""
    work.require("evaluate")
    path = work.folder("evaluate") / "report.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def table(report: Mapping[str, Any]) -> str:
    """The scores as text, in percent."""
    rows = {
        "k-means on pixels": report["kmeans_pixels"],
        "k-means on pretext features": report["kmeans_features"],
        "SCAN": report["scan"],
        "+ self-label": report["selflabel"],
    }
    count, split = report["num_images"], report["split"]
    lines = [f"{report['data']}: {count:,} images of the {split} split, seed {report['seed']}", ""]
    lines.append(f"{'':28}{'ACC':>8}{'NMI':>8}{'ARI':>8}{'clusters used':>16}")
    for name, scores in rows.items():
        if scores:
            cells = "".join(f"{_percent(scores[k]):>8}" for k in ("acc", "nmi", "ari"))
            lines.append(f"{name:28}{cells}{scores['num_clusters_used']:>16.0f}")
    pretext = report["pretext"]
    knn, purity = _percent(pretext["knn_acc"]), _percent(pretext["neighbor_purity"])
    lines += ["", f"pretext: kNN {knn}, neighbour purity {purity}"]
    if report["scan"] and report["scan"]["acc"] is None:
        last = report["selflabel"] or report["scan"]
        sizes = sorted(last["cluster_sizes"])
        lines.append(
            f"no labels, so no accuracy; mean confidence {last['mean_confidence']:.3f}, "
            f"clusters of {sizes[0]} to {sizes[-1]} images"
        )
    return "\n".join(lines)


def _baselines(work: Run, images: ImageSet) -> dict[str, Any]:
    """kNN, neighbour purity, and k-means on features and on pixels."""
    train, config = work.train_images, work.config.evaluate
    embedded, _ = checkpoint.read_npz(work.folder("neighbors") / "features.npz")
    mined = neighbors.load(work.folder("neighbors") / "train.npz")
    split = evaluated_split(work)
    knn = purity = None
    if train.labels is not None and images.labels is not None:
        purity = evaluate.neighbor_purity(mined.indices, train.labels)
        knn = evaluate.knn_accuracy(
            embedded["train"],
            train.labels,
            embedded[split],
            images.labels,
            k=config.knn_k,
            num_classes=len(train.class_names),
            leave_one_out=split == "train",
        )
    how = {
        "num_clusters": work.num_clusters,
        "num_classes": len(images.class_names),
        "restarts": config.kmeans_restarts,
        "seed": work.config.seed,
    }
    on_features = evaluate.kmeans_scores(embedded["train"], embedded[split], images.labels, **how)
    on_pixels = evaluate.kmeans_scores(train.images, images.images, images.labels, **how)
    pretext = {"knn_acc": knn, "neighbor_purity": purity, "neighbor_recall": mined.recall}
    return {"pretext": pretext, "kmeans_features": on_features, "kmeans_pixels": on_pixels}


def _clustering(
    work: Run, images: ImageSet, probs: np.ndarray, embedded: np.ndarray
) -> dict[str, Any]:
    scores = evaluate.cluster_scores(
        images.labels,
        probs.argmax(axis=1),
        num_clusters=work.num_clusters,
        num_classes=len(images.class_names),
        probs=probs,
    )
    return scores | evaluate.without_labels(probs, embedded, seed=work.config.seed)


def _write_assignments(
    work: Run, images: ImageSet, predictions: Mapping[str, Prediction]
) -> None:
    """`eval/assignments.npz`: what each evaluated image was given, by stage."""
    arrays = {}
    for stage, (probs, _) in predictions.items():
        arrays[f"{stage}_cluster"] = probs.argmax(axis=1).astype(np.int64)
        arrays[f"{stage}_confidence"] = probs.max(axis=1)
    checkpoint.write_npz(work.folder("evaluate") / "assignments.npz", arrays, {})


def _draw(work: Run, images: ImageSet, probs: np.ndarray, embedded: np.ndarray) -> None:
    folder, seed = work.folder("evaluate"), work.config.seed
    clusters, confidence = probs.argmax(axis=1), probs.max(axis=1)
    names, mapping = _cluster_names(work, images, clusters)
    sizes = np.bincount(clusters, minlength=len(names))
    charts.cluster_sizes(folder / "cluster_sizes.png", sizes, names)
    charts.confidence_histogram(folder / "confidence.png", confidence)
    chosen = evaluate.prototypes(probs, embedded)
    examples = [images.images[i] if i >= 0 else None for i in chosen]
    pictures.prototypes(folder / "prototypes.png", examples, names)
    stages = {s: read_metrics(work.folder(s) / "metrics.jsonl") for s in STAGES}
    charts.training_curves(folder / "curves.png", {s: r for s, r in stages.items() if r})
    _contact_sheets(folder / "clusters", images, clusters, confidence, names)
    count = min(work.config.evaluate.map_points, len(images))
    sample = np.random.default_rng(seed).choice(len(images), count, replace=False)
    points = pictures.embed_2d(embedded[sample], seed)
    labels = None if images.labels is None else images.labels[sample]
    pictures.feature_map(
        folder / "map.png", points, clusters[sample], labels, images.class_names
    )
    if images.labels is not None:
        predicted = evaluate.to_classes(clusters, mapping)
        known = predicted >= 0
        matrix = evaluate.confusion(
            images.labels[known], predicted[known], len(images.class_names)
        )
        pictures.confusion_matrix(
            folder / "confusion.png", matrix, images.class_names, "True class against cluster"
        )


def _contact_sheets(
    folder: Path,
    images: ImageSet,
    clusters: np.ndarray,
    confidence: np.ndarray,
    names: list[str],
) -> None:
    """A page for each cluster: its most confident images."""
    folder.mkdir(parents=True, exist_ok=True)
    for cluster, name in enumerate(names):
        members = np.flatnonzero(clusters == cluster)
        top = members[np.argsort(-confidence[members], kind="stable")[:_SHEET_IMAGES]]
        title = f"Cluster {name}: {len(members)} images, the most confident"
        pictures.contact_sheet(
            folder / f"{cluster:03d}.png", images.images[top], confidence[top], title
        )


def _cluster_names(
    work: Run, images: ImageSet, clusters: np.ndarray
) -> tuple[list[str], list[int | None]]:
    """`3`, or `3: frog` where labels tell, and the mapping from clusters to classes."""
    count = work.num_clusters
    if images.labels is None:
        return [str(c) for c in range(count)], []
    mapping, _ = evaluate.match(images.labels, clusters, count, len(images.class_names))
    classes = [None if m is None else images.class_names[m] for m in mapping]
    return [str(c) if n is None else f"{c}: {n}" for c, n in enumerate(classes)], mapping


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"
