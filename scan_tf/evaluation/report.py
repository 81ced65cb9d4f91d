"""The evaluation of a split: `report.json`, the table of scores, and the pictures.

Labels are read here and nowhere else. Without labels the same report says what can be known
without them, and every score that needs labels is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from scan_tf.config import EvaluateConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import (
    abstention,
    assignments,
    calibration,
    charts,
    metrics,
    report_lines,
    report_pictures,
)
from scan_tf.evaluation.assignments import Clustering
from scan_tf.evaluation.remarks import remarks
from scan_tf.evaluation.text import percent
from scan_tf.features.outliers import Reference
from scan_tf.storage.files import write_text


class Report(TypedDict):
    """What `report.json` holds.

    `scan` and `selflabel` are None where the stage was not run; see `write` for what they hold.
    """

    data: str
    split: str
    num_images: int
    seed: int
    num_clusters: int
    # How it was decided (`clusters.json`), and `true`, the number of classes; None: it was set.
    num_clusters_auto: dict[str, Any] | None
    # On which images the epoch and the head of SCAN were chosen.
    selection: str
    skipped_files: list[str]
    # Of the pretext's features, and of k-means on them and on pixels.
    pretext: dict[str, Any]
    kmeans_features: dict[str, Any] | None
    kmeans_pixels: dict[str, Any] | None
    # Of k-means on colour histograms.
    kmeans_colors: dict[str, Any] | None
    # Where pretrained features come from: name, trained, licence, labels; None: learned here.
    backbone: dict[str, Any] | None
    # How the clustering was made of the heads, and how far those agree; None: not looked at.
    heads: dict[str, Any] | None
    # The clustering that the run has to show, and why, where self-label did harm.
    kept: str
    kept_because: str | None
    scan: dict[str, Any] | None
    selflabel: dict[str, Any] | None
    # Of the classifier that somebody has corrected; None: nobody has.
    corrected: dict[str, Any] | None
    # What somebody who looks at the clustering should be warned of, in sentences.
    warnings: list[str]
    # When the last clustering says "none of these", see `abstention.summary`; None: never.
    abstain: dict[str, Any] | None
    # Seconds of every stage before this one; None where it was not run.
    wall_time_s: dict[str, float | None]


def write(
    folder: Path,
    images: ImageSet,
    clusterings: Sequence[Clustering],
    report: Report,
    *,
    config: EvaluateConfig,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    points: np.ndarray,
    root: Path | None = None,
    compared: tuple[Reference, np.ndarray] | None = None,
    below: tuple[float, str] | None = None,
) -> Report:
    """Score the clusterings, and write `report.json`, tables and pictures.

    Args:
        folder: where the files go.
        images: the evaluated images.
        clusterings: of them, in the order of the stages; at least one.
        report: all but the scores of the clusterings.
        config: whether there are pictures, and of how many images the map is.
        curves: rows of the metrics of each stage that trained, for the pictures.
        points: float32 [N,2], the images in the plane; see `map2d.layout`.
        root: the folder of the images, to which their paths are given.
        compared: the images of the last clustering with those that were learned from, and the
            distance float32 [N] of each; None: nothing is said of outliers.
        below: the confidence below which an image is none of the kinds, and how it was chosen.

    Returns:
        The report.
    """
    report = report.copy()
    scores = {c.name: _scores(images, c, seed=report["seed"]) for c in clusterings}
    report.update(scores)  # type: ignore[typeddict-item]
    rows, last = assignments.write(folder, images, root, clusterings), clusterings[-1]
    if compared is not None:
        reference, distance = compared
        chosen = below or abstention.threshold(scores[last.name]["coverage"], config.abstain)
        report["abstain"] = _abstain(images, last, scores[last.name], compared, chosen)
        abstention.write_outliers(folder, rows, distance, reference.far)
    seen = {"num_clusters": last.probs.shape[1], "skipped": len(images.skipped)}
    report["warnings"] = [
        *report.get("warnings", []),
        *remarks(last.clusters, last.confidence, **seen),
    ]
    write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    assignments.write_mappings(folder, images, clusterings, scores, formulas=config.formulas)
    if config.pictures:
        report_pictures.draw_charts(folder, clusterings, scores, report["pretext"])
        charts.training_curves(folder / "curves.png", {s: r for s, r in curves.items() if r})
        count = min(config.map_points, len(images))
        some = np.random.default_rng(report["seed"]).choice(len(images), count, replace=False)
        report_pictures.draw(folder, images, clusterings[-1], points, some)
    return report


def table(report: Report, labels: Mapping[str, str]) -> str:
    """The scores as text, in percent; `labels`: what clusterings are called, by their key."""
    rows = {
        "k-means on pixels": report["kmeans_pixels"],
        "k-means on colours": report.get("kmeans_colors"),
        "k-means on pretext features": report["kmeans_features"],
        **{label: report[name] for name, label in labels.items()},  # type: ignore[literal-required]
    }
    count, split = report["num_images"], report["split"]
    last = [scores for scores in rows.values() if scores][-1]
    lines = [f"{report['data']}: {count:,} images of the {split} split, seed {report['seed']}", ""]
    if last["acc"] is not None:
        lines.append(f"{'':28}{'ACC':>8}{'NMI':>8}{'ARI':>8}{'clusters used':>16}")
        for name, scores in rows.items():
            if scores:
                cells = "".join(f"{percent(scores[k]):>8}" for k in ("acc", "nmi", "ari"))
                lines.append(f"{name:28}{cells}{scores['num_clusters_used']:>16.0f}")
        lines += [*report_lines.features(report["pretext"].get("features")), ""]
        lines.append(f"pretext: {report_lines.pretext(report['pretext'])}")
    if decided := report.get("num_clusters_auto"):
        lines.append(f"number of clusters: {report_lines.num_clusters(decided)}")
    if backbone := report.get("backbone"):
        lines.append(f"features: {backbone['name']}, frozen; trained: {backbone['trained']}")
    if heads := report.get("heads"):
        lines.append(
            f"cluster heads: NMI {heads['agreement']:.2f} between two of them; kept is the "
            f"{heads['combine'].replace('_', ' ')}"
        )
    if report.get("kept_because"):
        lines.append(report_lines.kept(report, labels))
    if last["acc"] is None:
        sizes = sorted(last["cluster_sizes"])
        lines.append(
            f"no labels, so no accuracy; mean confidence {last['mean_confidence']:.3f}, "
            f"clusters of {sizes[0]} to {sizes[-1]} images"
        )
    if report.get("abstain"):
        lines.append(f"none of these: {abstention.sentence(report['abstain'] or {})}")
    lines += [f"warning: {sentence}" for sentence in report.get("warnings", [])]
    return "\n".join(lines)


def _scores(images: ImageSet, clustering: Clustering, *, seed: int) -> dict[str, Any]:
    """What the report says of a clustering."""
    clusters, confidence = clustering.clusters, clustering.confidence
    count = clustering.probs.shape[1]
    trained = clustering.probs if clustering.raw is None else clustering.raw
    scores = metrics.cluster_scores(
        images.labels,
        clusters,
        num_clusters=count,
        num_classes=len(images.class_names),
        probs=clustering.probs,
    )
    scores |= metrics.without_labels(clustering.probs, clustering.features, seed=seed)
    correct = _correct(images, clustering, scores)
    # What self-labelling goes by is the confidence that was trained.
    scores["confident"] = float((trained.max(axis=1) > 0.99).mean())
    scores["calibration"] = calibration.calibration(confidence, correct)
    if clustering.raw is not None:
        before = calibration.calibration(trained.max(axis=1), correct)
        scores["ece_before_calibration"] = before["ece"]
    scores |= calibration.coverage(confidence, correct)
    if clustering.teaches:
        scores["pseudo_labels"] = calibration.pseudo_labels(
            trained.max(axis=1), clusters, correct, num_clusters=count
        )
    return {**scores, **clustering.result}


def _correct(
    images: ImageSet, clustering: Clustering, scores: Mapping[str, Any]
) -> np.ndarray | None:
    """Which images are right, bool [N]; None without labels."""
    if images.labels is None:
        return None
    return np.asarray(metrics.to_classes(clustering.clusters, scores["mapping"]) == images.labels)


def _abstain(
    images: ImageSet,
    clustering: Clustering,
    scores: Mapping[str, Any],
    compared: tuple[Reference, np.ndarray],
    chosen: tuple[float, str],
) -> dict[str, Any]:
    """When the clustering says "none of these", and what that leaves."""
    correct, (reference, distance) = _correct(images, clustering, scores), compared
    told: dict[str, Any] = {"below": chosen[0], "how": chosen[1], "far": reference.far}
    return abstention.summary(clustering.confidence, distance, correct, **told)
