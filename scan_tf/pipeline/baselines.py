"""What there is without clustering: scores of the pretext's features, k-means on them, on pixels.

The scores of the report that the clustering is compared with. Those that need features of the
pretext are None in a run without one (its clustering came from elsewhere), and `note` says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scan_tf import files
from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import probes
from scan_tf.evaluation.knn import knn_accuracy
from scan_tf.features import neighbors
from scan_tf.features.embedding import embed
from scan_tf.methods.task import Pretext
from scan_tf.pipeline.run_dir import Run

NO_PRETEXT = "no pretext in this run"
CROSS_VALIDATION = "5-fold cross-validation on the evaluated images"


def score(work: Run, images: ImageSet, pretext: Pretext | None) -> dict[str, Any]:
    """The baselines of the report.

    Args:
        work: the run.
        images: the evaluated images.
        pretext: the trained pretext; None: the run has none.

    Returns:
        kmeans_features (None without a pretext) and kmeans_pixels, as `probes.kmeans_scores`
        gives them. pretext: knn_acc, linear_probe_acc and linear_probe_protocol on the evaluated
        images; of the training images, whatever is evaluated, neighbor_purity and neighbor_recall
        of the mined neighbours, neighbor_purity_by_k (K as text -> purity) and
        neighbor_purity_chance; note. What needs labels, or a stage that is missing, is None.
    """
    train, config = work.train_images, work.config.evaluate
    scores: dict[str, Any] = dict.fromkeys(
        (
            "knn_acc",
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
        "num_clusters": work.num_clusters,
        "num_classes": len(images.class_names),
        "restarts": config.kmeans_restarts,
        "seed": work.config.seed,
    }
    on_features = None
    if pretext is None:
        scores["note"] = NO_PRETEXT
    else:
        bank, queries = _embedded(work, pretext, images)
        scores |= _neighborhoods(work, bank) | _knn(work, images, bank, queries)
        if config.linear_probe:
            scores |= _linear_probe(work, images, pretext)
        bar = _bar(work, "k-means on features")
        on_features = probes.kmeans_scores(bank, queries, images.labels, **how, progress=bar)
    bar = _bar(work, "k-means on pixels")
    on_pixels = probes.kmeans_scores(
        train.images, images.images, images.labels, **how, progress=bar
    )
    return {"pretext": scores, "kmeans_features": on_features, "kmeans_pixels": on_pixels}


def _embedded(work: Run, pretext: Pretext, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [N,P] of the training images, [M,P] of the evaluated; stored or new."""
    path = work.folder("neighbors") / "features.npz"
    known: dict[str, np.ndarray] = {}
    if work.is_done("neighbors") and path.exists():
        known, _ = files.read_npz(path)
    for source in (work.train_images, images):
        if source.split not in known:
            options = work.inference(f"features of {source.split}")
            known[source.split] = embed(pretext.embed, source, **options)
    return known["train"], known[images.split]


def _neighborhoods(work: Run, bank: np.ndarray) -> dict[str, Any]:
    labels, mined = work.train_images.labels, None
    scores: dict[str, Any] = {}
    if work.is_done("neighbors"):
        found = neighbors.load(work.folder("neighbors") / "train.npz")
        mined, scores["neighbor_recall"] = found.indices, found.recall
    if labels is not None:
        curve = probes.purity_curve(bank, labels, mined, seed=work.config.seed)
        scores["neighbor_purity_by_k"] = {str(k): purity for k, purity in curve.items()}
        scores["neighbor_purity_chance"] = probes.chance_purity(labels)
        if mined is not None:
            scores["neighbor_purity"] = curve[mined.shape[1] - 1]
    return scores


def _knn(work: Run, images: ImageSet, bank: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    train = work.train_images
    if train.labels is None or images.labels is None:
        return {}
    accuracy = knn_accuracy(
        bank,
        train.labels,
        queries,
        images.labels,
        k=work.config.evaluate.knn_k,
        num_classes=len(train.class_names),
        leave_one_out=_trained_on(images),
    )
    return {"knn_acc": accuracy}


def _linear_probe(work: Run, images: ImageSet, pretext: Pretext) -> dict[str, Any]:
    train = work.train_images
    if train.labels is None or images.labels is None:
        return {}

    def frozen(source: ImageSet) -> np.ndarray:
        options = work.inference(f"backbone features of {source.split}")
        return embed(pretext.backbone.embed, source, **options)

    if _trained_on(images):
        seed, progress = work.config.seed, work.config.runtime.progress
        accuracy = probes.cross_validated_probe(
            frozen(images), images.labels, seed=seed, progress=progress
        )
        return {"linear_probe_acc": accuracy, "linear_probe_protocol": CROSS_VALIDATION}
    accuracy = probes.linear_probe(frozen(train), train.labels, frozen(images), images.labels)
    return {"linear_probe_acc": accuracy, "linear_probe_protocol": "fit on the training images"}


def _trained_on(images: ImageSet) -> bool:
    """Whether the images are the training ones; so is a pretext split, as far as it has labels."""
    return images.split != "test"


def _bar(work: Run, name: str) -> str | None:
    return name if work.config.runtime.progress else None
