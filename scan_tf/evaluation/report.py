"""The evaluation of a split: `report.json`, the table of scores, and the pictures.

Labels are read here and nowhere else. Without labels the same report says what can be known
without them, and every score that needs labels is null.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import files
from scan_tf.data.image_set import SPLITS, ImageSet, Split
from scan_tf.data.sources import pretext_is_train
from scan_tf.errors import StageError
from scan_tf.evaluation import calibration, charts, metrics, pictures
from scan_tf.features.map2d import embed_2d
from scan_tf.files import read_metrics
from scan_tf.pipeline.run_dir import STAGES, Run

# Cluster probabilities float32 [N,C] and features float32 [N,D] of a stage.
Prediction = tuple[np.ndarray, np.ndarray]
_TITLES = {"scan": "SCAN", "selflabel": "self-label"}
_SHEET_IMAGES = 36


def evaluated_split(work: Run) -> Split:
    """`evaluate.split`, where `auto` is the test split if the data set has one."""
    split = work.config.evaluate.split
    if split == "auto":
        return "train" if work.images("test") is None else "test"
    return split


def evaluated_images(work: Run) -> ImageSet:
    """The images that `evaluate.split` names. Raises StageError as `images_of` does."""
    return images_of(work, evaluated_split(work))


def images_of(work: Run, split: str) -> ImageSet:
    """The images of a split. Raises StageError, naming the others, when there is no such split."""
    # Where the pretext learns from the training images, "pretext" is no split of its own.
    splits = [s for s in SPLITS if s != "pretext" or not pretext_is_train(work.config.data)]
    images = next((work.images(s) for s in splits if s == split), None)
    if images is None:
        there = [s for s in splits if s != "test" or (s != split and work.images(s) is not None)]
        raise StageError(
            f"evaluate.split: '{work.config.data.name}' has no split '{split}'. "
            f"It has: {', '.join(there)}."
        )
    return images


def folder_of(work: Run, split: str) -> Path:
    """Where the evaluation of a split goes: `eval/`, or `eval-<split>/` beside the stage's."""
    stage = work.folder("evaluate")
    return stage if split == evaluated_split(work) else stage.with_name(f"{stage.name}-{split}")


def write(
    work: Run,
    predictions: Mapping[str, Prediction],
    baselines: Mapping[str, Any],
    *,
    split: str,
    folder: Path,
) -> dict[str, Any]:
    """Score the predictions, write `report.json`, tables and pictures, print the scores.

    Args:
        work: the run.
        predictions: of `scan`, of `selflabel`, or of both in this order, on the images of `split`.
        baselines: as `baselines.score` gives them for these images.
        split: which images are scored.
        folder: where the files go.

    Returns:
        For the stage's record: which split was scored.

    Raises:
        StageError: there is no such split.
    """
    images = images_of(work, split)
    report: dict[str, Any] = {
        "data": work.config.data.name,
        "split": split,
        "num_images": len(images),
        "seed": work.config.seed,
        "num_clusters": work.num_clusters,
        "selection": _selection(work),
        "skipped_files": list(images.skipped),
    }
    report |= {**baselines, "scan": None, "selflabel": None}
    for stage, prediction in predictions.items():
        report[stage] = _clustering(work, images, stage, *prediction)
    before = [s for s in STAGES if s not in ("evaluate", "export")]
    report["wall_time_s"] = {s: work.record(s).get("wall_time_s") for s in before}
    files.write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    _write_assignments(folder, predictions)
    _write_mappings(folder, images, predictions, report)
    if work.config.evaluate.pictures:
        _draw_charts(work, folder, report)
        _draw(work, folder, images, *list(predictions.values())[-1])
    print(table(report))
    return {"split": split}


def _selection(work: Run) -> str:
    """On which images the epoch and the head of SCAN were chosen."""
    imported = "imported_from" in work.record("scan").get("result", {})
    return "imported" if imported else work.config.scan.selection


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
    lines += ["", f"pretext: {_pretext_scores(report['pretext'])}"]
    last = report["selflabel"] or report["scan"]
    if last["acc"] is None:
        sizes = sorted(last["cluster_sizes"])
        lines.append(
            f"no labels, so no accuracy; mean confidence {last['mean_confidence']:.3f}, "
            f"clusters of {sizes[0]} to {sizes[-1]} images"
        )
    return "\n".join(lines)


def _pretext_scores(scores: Mapping[str, Any]) -> str:
    if scores["note"]:
        return str(scores["note"])
    text = f"kNN {_percent(scores['knn_acc'])}"
    text += f", neighbour purity {_percent(scores['neighbor_purity'])}"
    if scores["linear_probe_acc"] is not None:
        how = " (5-fold)" if "5-fold" in scores["linear_probe_protocol"] else ""
        text += f", linear probe {_percent(scores['linear_probe_acc'])}{how}"
    return text


def _clustering(
    work: Run, images: ImageSet, stage: str, probs: np.ndarray, embedded: np.ndarray
) -> dict[str, Any]:
    """What the report says of a stage; SCAN's also what self-labelling would learn from."""
    clusters, confidence = probs.argmax(axis=1), probs.max(axis=1)
    count = work.num_clusters
    classes = len(images.class_names)
    scores = metrics.cluster_scores(
        images.labels, clusters, num_clusters=count, num_classes=classes, probs=probs
    )
    scores |= metrics.without_labels(probs, embedded, seed=work.config.seed)
    correct = None
    if images.labels is not None:
        correct = metrics.to_classes(clusters, scores["mapping"]) == images.labels
    scores["calibration"] = calibration.calibration(confidence, correct)
    scores |= calibration.coverage(confidence, correct)
    if stage == "scan":
        scores["pseudo_labels"] = calibration.pseudo_labels(
            confidence, clusters, correct, num_clusters=count
        )
    return scores | work.record(stage)["result"]


def _write_assignments(folder: Path, predictions: Mapping[str, Prediction]) -> None:
    """`assignments.npz`: what each evaluated image was given, by stage."""
    arrays = {}
    for stage, (probs, _) in predictions.items():
        arrays[f"{stage}_cluster"] = probs.argmax(axis=1).astype(np.int64)
        arrays[f"{stage}_confidence"] = probs.max(axis=1)
    files.write_npz(folder / "assignments.npz", arrays, {})


def _write_mappings(
    folder: Path, images: ImageSet, predictions: Mapping[str, Prediction], report: Mapping[str, Any]
) -> None:
    """`mapping.csv` of the last stage, `mapping-scan.csv` where that is not SCAN."""
    for stage, (probs, _) in predictions.items():
        rows = metrics.mapping_rows(
            images.labels,
            probs.argmax(axis=1),
            report[stage]["mapping"],
            num_clusters=probs.shape[1],
        )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("cluster", "class", "size", "purity"))
        for cluster, number, size, purity in rows:
            name = None if number is None else images.class_names[number]
            writer.writerow((cluster, name, size, None if purity is None else round(purity, 4)))
        last = stage == list(predictions)[-1]
        name = "mapping.csv" if last else f"mapping-{stage}.csv"
        files.write_text(folder / name, text.getvalue())


def _draw_charts(work: Run, folder: Path, report: Mapping[str, Any]) -> None:
    """Charts of what is in the report, both stages in one; curves of the training."""
    stages = {title: report[stage] for stage, title in _TITLES.items() if report[stage]}
    known = all(scores["acc"] is not None for scores in stages.values())
    if known:
        parts = {title: scores["calibration"] for title, scores in stages.items()}
        charts.reliability(
            folder / "reliability.png", {t: (c["ece"], c["bins"]) for t, c in parts.items()}
        )
    shown = "accuracy" if known else "threshold"
    rows = {title: scores["coverage"] for title, scores in stages.items()}
    charts.series(
        folder / "coverage.png",
        calibration.COVERAGES,
        {title: ([row[shown] for row in part], None) for title, part in rows.items()},
        xlabel="most confident images that are kept, %",
        ylabel="their accuracy" if known else "confidence of the least sure of them",
        title="Leaving out unsure images",
    )
    purity = report["pretext"]["neighbor_purity_by_k"]
    if purity:
        chance = report["pretext"]["neighbor_purity_chance"]
        charts.series(
            folder / "purity_vs_k.png",
            [int(k) for k in purity],
            {"training images": (list(purity.values()), None)},
            xlabel="nearest neighbours K",
            ylabel="share with the image's own class",
            title="Purity of the neighbours by the pretext's features",
            log_x=True,
            level=(f"chance: {chance:.3f}", chance),
        )
    logged = {s: read_metrics(work.folder(s) / "metrics.jsonl") for s in STAGES}
    charts.training_curves(folder / "curves.png", {s: rows for s, rows in logged.items() if rows})


def _draw(
    work: Run, folder: Path, images: ImageSet, probs: np.ndarray, embedded: np.ndarray
) -> None:
    """Pictures of the clusters of the last stage."""
    seed = work.config.seed
    clusters, confidence = probs.argmax(axis=1), probs.max(axis=1)
    names, mapping = _cluster_names(work, images, clusters)
    sizes = np.bincount(clusters, minlength=len(names))
    charts.cluster_sizes(folder / "cluster_sizes.png", sizes, names)
    charts.confidence_histogram(folder / "confidence.png", confidence)
    chosen = metrics.prototypes(probs, embedded)
    examples = [images.images[i] if i >= 0 else None for i in chosen]
    pictures.prototypes(folder / "prototypes.png", examples, names)
    _contact_sheets(folder / "clusters", images, clusters, confidence, names)
    count = min(work.config.evaluate.map_points, len(images))
    sample = np.random.default_rng(seed).choice(len(images), count, replace=False)
    points = embed_2d(embedded[sample], seed)
    labels = None if images.labels is None else images.labels[sample]
    pictures.feature_map(folder / "map.png", points, clusters[sample], labels, images.class_names)
    if images.labels is not None:
        predicted = metrics.to_classes(clusters, mapping)
        known = predicted >= 0
        matrix = metrics.confusion(
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
    mapping, _ = metrics.match(images.labels, clusters, count, len(images.class_names))
    classes = [None if m is None else images.class_names[m] for m in mapping]
    return [str(c) if n is None else f"{c}: {n}" for c, n in enumerate(classes)], mapping


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"
