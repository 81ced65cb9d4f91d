"""The stage `evaluate`: what the clusterings and the pretext are worth, on any split.

The clustering is compared with what there is without it: scores of the pretext's features, k-means
on them, and k-means on pixels. Those that need features of the pretext are None in a run without
one (its clustering came from elsewhere), and `note` says so.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import config
from scan_tf.data import sources
from scan_tf.data.image_set import SPLITS, ImageSet, Split
from scan_tf.errors import StageError
from scan_tf.evaluation import calibration, probes, report
from scan_tf.evaluation.assignments import Clustering
from scan_tf.evaluation.report import Report
from scan_tf.features.embedding import head_probs
from scan_tf.features.map2d import layout
from scan_tf.methods.task import Pretext
from scan_tf.models.backbone import Backbone
from scan_tf.pipeline import (
    build,
    corrected,
    decided,
    doubt,
    embeddings,
    feature_scores,
    features,
    names,
    neighbors,
    reference,
    reports,
    result_page,
)
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import CLUSTERINGS, OUTPUTS, STAGES, labels, up_to
from scan_tf.storage.files import read_metrics

NO_PRETEXT = "no pretext in this run"
CROSS_VALIDATION = "5-fold cross-validation on the evaluated images"


def run(run: Run, split: str | None = None) -> dict[str, Any]:
    """Scores, pictures and the report of a split; None: the one that the config names.

    Raises:
        StageError: nothing was clustered, or there is no such split.
    """
    split = split or evaluated_split(run)
    images = images_of(run, split)
    given = names.read(run)
    clusterings = []
    for stage in run.clusterings():
        network, clustering = _clustering(run, stage, images)
        clusterings.append(clustering)
    by_hand, own = corrected.load(run, warn=True), clusterings[-1]
    if by_hand is not None:
        clusterings.append(corrected.clustering(by_hand, split, own.features))
    clusterings[-1] = dataclasses.replace(
        clusterings[-1], names=names.listed(given, clusterings[-1].probs.shape[1])
    )
    # Where the clustering was imported there is no pretext.
    pretext = build.trained_pretext(run) if run.is_done("pretext") else None
    folder, last = folder_of(run, split), clusterings[-1]
    points = layout(last.features, run.config.seed, run.config.evaluate.map_points)
    compared = reference.compare(run, network, images, last.features)
    distance = None if compared is None else compared[1]
    found = report.write(
        folder,
        images,
        clusterings,
        facts(run, images, _scored_once(run, images, pretext)),
        config=run.config.evaluate,
        root=None if run.config.data.path is None else Path(run.config.data.path),
        curves={s: read_metrics(run.sealed(s, "metrics.jsonl")) for s in STAGES},
        points=points,
        compared=compared,
        below=None if by_hand is None else by_hand.below,
    )
    if run.keeps_embeddings:
        own_probs = None if by_hand is None else own.probs
        embeddings.store(folder, images, last, points, distance, own_probs=own_probs)
    doubt.store(folder, compared, found["abstain"])
    result_page.write(run, images, last, points, folder, distance=distance)
    print(report.table(found, labels() | {corrected.NAME: f"+ {corrected.LABEL}"}))
    return {"split": split}


def read_report(run: Run) -> dict[str, Any]:
    """The report of a run. Raises StageError when there is none."""
    run.require("evaluate")
    return reports.read(run)


def evaluated_split(run: Run) -> Split:
    """`evaluate.split`, where `auto` is the test split if the data set has one."""
    split = run.config.evaluate.split
    if split == "auto":
        return "train" if run.images("test") is None else "test"
    return split


def images_of(run: Run, split: str) -> ImageSet:
    """The images of a split. Raises StageError, naming the others, when there is no such split."""
    # Where the pretext learns from the training images, "pretext" is no split of its own.
    splits = [s for s in SPLITS if s != "pretext" or not sources.pretext_is_train(run.config.data)]
    images = next((run.images(s) for s in splits if s == split), None)
    if images is None:
        there = [s for s in splits if s != "test" or (s != split and run.images(s) is not None)]
        raise StageError(
            f"evaluate.split: '{run.config.data.name}' has no split '{split}'. "
            f"It has: {', '.join(there)}."
        )
    return images


def folder_of(run: Run, split: str) -> Path:
    """Where the evaluation of a split goes: `eval/`, or `eval-<split>/` beside the stage's."""
    stage = run.folder("evaluate")
    return stage if split == evaluated_split(run) else stage.with_name(f"{stage.name}-{split}")


def _clustering(run: Run, stage: str, images: ImageSet) -> tuple[Backbone, Clustering]:
    """The backbone of a clustering, and what it makes of the images."""
    backbone, heads = build.trained_clusters(run, stage)
    embedded = features.of_backbone(run, backbone, images, stage)
    probs = head_probs(heads, embedded)[0]
    temperature = build.temperature(run, stage)
    label, teaches = STAGES[stage].label, stage != CLUSTERINGS[-1]
    # Of these only the record tells: they differ from machine to machine and from run to run.
    machines = ("peak_memory_mib", "threads")
    result = {k: v for k, v in run.record(stage).result.items() if k not in machines}
    return backbone, Clustering(
        stage,
        label,
        calibration.tempered(probs, temperature),
        embedded,
        result,
        teaches=teaches,
        raw=None if temperature == 1 else probs,
    )


def facts(run: Run, images: ImageSet, baselines: Mapping[str, Any]) -> Report:
    """The report, but for the clusterings."""
    records = {stage: run.record(stage) for stage in STAGES if stage not in OUTPUTS}
    imported = "imported_from" in records["scan"].result
    last = records[CLUSTERINGS[-1]]
    return {
        "data": run.config.data.name,
        "split": images.split,
        "num_images": len(images),
        "seed": run.config.seed,
        "num_clusters": run.num_clusters,
        "num_clusters_auto": _decided(run),
        "selection": "imported" if imported else run.config.scan.selection,
        "skipped_files": list(images.skipped),
        "pretext": baselines["pretext"],
        "kmeans_features": baselines["kmeans_features"],
        "kmeans_pixels": baselines["kmeans_pixels"],
        "kmeans_colors": baselines["kmeans_colors"],
        "backbone": records["pretext"].result.get("backbone"),
        "heads": _heads(records["scan"].result),
        "kept": last.result.get("kept", CLUSTERINGS[-1]) if last.is_done else CLUSTERINGS[0],
        "kept_because": last.result.get("why"),
        "scan": None,
        "selflabel": None,
        "corrected": None,
        "warnings": list(records["scan"].result.get("warnings", [])),
        "abstain": None,
        "wall_time_s": {s: r.wall_time_s if r.has_begun else None for s, r in records.items()},
    }


def _decided(run: Run) -> dict[str, Any] | None:
    """How the number of clusters was decided, with the true one where labels tell it."""
    found = decided.read(run) if decided.is_open(run) else None
    return None if found is None else {**found, "true": run.train_images.num_classes}


def score(run: Run, images: ImageSet, pretext: Pretext | None) -> dict[str, Any]:
    """The baselines of the report.

    Args:
        run: the run.
        images: the evaluated images.
        pretext: the trained pretext; None: the run has none.

    Returns:
        kmeans_features (None without a pretext), kmeans_pixels and kmeans_colors, as
        `probes.kmeans_scores` gives them; None without labels to compare with. pretext: on the
        evaluated images, features: the scores by "backbone" and by "projection", as
        `feature_scores.score` gives them; neighbor_features: by which of them neighbours are found,
        and of it knn_acc and kmeans_features; linear_probe_acc and linear_probe_protocol, of the
        backbone. Of the training images, whatever is evaluated, neighbor_purity and
        neighbor_recall of the mined neighbours, neighbor_purity_by_k (K as text -> purity) and
        neighbor_purity_chance; note. What needs labels, or a stage that is missing, is None.
    """
    train, config = run.train_images, run.config.evaluate
    scores: dict[str, Any] = dict.fromkeys(
        (
            "knn_acc",
            "features",
            "neighbor_features",
            "neighbor_purity",
            "neighbor_recall",
            "neighbor_purity_by_k",
            "neighbor_purity_chance",
            "linear_probe_acc",
            "linear_probe_protocol",
            "note",
        )
    )
    how: dict[str, Any] = {
        "num_clusters": run.num_clusters,
        "num_classes": len(images.class_names),
        "restarts": config.kmeans_restarts,
        "seed": run.config.seed,
    }
    told: dict[str, Any] = dict.fromkeys(("kmeans_features", "kmeans_pixels", "kmeans_colors"))
    if pretext is None:
        scores["note"] = NO_PRETEXT
    else:
        bank, queries = _embedded(run, pretext, images)
        scores["neighbor_features"] = features.mined_by(run.config, pretext)
        scores |= _neighborhoods(run, bank)
        if images.labels is not None:
            how["progress"] = _bar(run, "k-means on features")
            told["kmeans_features"] = probes.kmeans_scores(bank, queries, images.labels, **how)
            found = feature_scores.score(
                run,
                images,
                pretext,
                (bank, queries),
                told["kmeans_features"],
                kmeans=how,
                leave_one_out=_trained_on(images),
            )
            if found:
                scores |= _main_scores(found, scores["neighbor_features"], images)
    plain = (("pixels", probes.thumbnails), ("colors", probes.color_histograms))
    for name, rows in plain if images.labels is not None else ():
        how["progress"] = _bar(run, f"k-means on {'colours' if name == 'colors' else name}")
        sides = rows(train.images), rows(images.images)
        told[f"kmeans_{name}"] = probes.kmeans_scores(*sides, images.labels, **how)
    return {"pretext": scores, **told}


def _scored_once(run: Run, images: ImageSet, pretext: Pretext | None) -> dict[str, Any]:
    """`score`, computed once for runs that share images, pretext, neighbours and settings."""
    made_of = [run.record(stage).output for stage in up_to("neighbors")]
    settings = [config.to_dict(getattr(run.config, name)) for name in ("neighbors", "evaluate")]
    known = (images.split, run.num_clusters, run.config.seed, made_of, settings)
    key = json.dumps(known, sort_keys=True)
    if key not in run.scores or None in made_of:
        run.scores[key] = score(run, images, pretext)
    return copy.deepcopy(run.scores[key])


def _heads(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far the cluster heads agree, where the stage has looked at that."""
    keys = ("combine", "agreement", "spread")
    return {key: result[key] for key in keys} if "agreement" in result else None


def _embedded(run: Run, pretext: Pretext, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [N,P] of the training images, [M,P] of the evaluated; stored or new."""
    known = neighbors.features(run)
    if images.split not in known:
        known[images.split] = features.of_pretext(
            run, pretext, images, f"features of {images.split}"
        )
    return known["train"], known[images.split]


def _neighborhoods(run: Run, bank: np.ndarray) -> dict[str, Any]:
    labels, mined = run.train_images.labels, None
    scores: dict[str, Any] = {}
    if run.is_done("neighbors"):
        found = neighbors.mined(run)
        mined, scores["neighbor_recall"] = found.indices, found.recall
    if labels is not None:
        curve = probes.purity_curve(bank, labels, mined, seed=run.config.seed)
        scores["neighbor_purity_by_k"] = {str(k): purity for k, purity in curve.items()}
        scores["neighbor_purity_chance"] = probes.chance_purity(labels)
        if mined is not None:
            scores["neighbor_purity"] = curve[mined.shape[1] - 1]
    return scores


def _main_scores(
    found: Mapping[str, Mapping[str, Any]], mined: str, images: ImageSet
) -> dict[str, Any]:
    """All of them; apart, kNN by what neighbours are found by, and the backbone's linear probe."""
    probe = found.get("backbone", {}).get("linear_probe_acc")
    protocol = CROSS_VALIDATION if _trained_on(images) else "fit on the training images"
    return {
        "features": found,
        "knn_acc": found[mined]["knn_acc"],
        "linear_probe_acc": probe,
        "linear_probe_protocol": None if probe is None else protocol,
    }


def _trained_on(images: ImageSet) -> bool:
    """Whether the images are the training ones; so is a pretext split, as far as it has labels."""
    return images.split != "test"


def _bar(run: Run, name: str) -> str | None:
    return name if run.config.runtime.progress else None
