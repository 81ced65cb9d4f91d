"""The trained classifier as one small file to publish: a `.weights.h5` of Keras.

Kernels are float16, which halves the file and changes each by at most 2**-11 of its value (the
smallest by 3e-8); the biases and what BatchNorm needs, which are few, stay float32. Beside the
weights the file holds, as JSON in the dataset `scan_tf`, all that it takes to rebuild the network
and to use it: the model section, image size, mean and deviation, the classes, and the scores that
it was published with. A Keras model with the same layers reads it by `load_weights`.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np
import tensorflow as tf

from scan_tf import __version__, config, machine, models
from scan_tf.data import sources
from scan_tf.data.image_set import Split
from scan_tf.errors import DataError, StageError
from scan_tf.evaluation import metrics
from scan_tf.features.embedding import embed
from scan_tf.models.backbone import Backbone
from scan_tf.models.frozen import Frozen
from scan_tf.models.heads import ClusterHeads, new_heads
from scan_tf.pipeline import build, corrected, evaluate, names
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import CLUSTERINGS
from scan_tf.storage import files

SUFFIX = ".weights.h5"
FORMAT = 1
_FACTS = "scan_tf"
_SCORES = ("acc", "nmi", "ari")


class Classifier(keras.Model):
    """Backbone and cluster head: what a published file holds.

    Args:
        backbone: the features; built.
        heads: one head, H = 1; built.
    """

    def __init__(self, backbone: Backbone, heads: ClusterHeads):
        super().__init__(name="classifier")
        self.backbone, self.heads = backbone, heads
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Cluster probabilities f32 [B,C] of images f32 [B,S,S,3] in 0..1."""
        return tf.nn.softmax(self.heads(self.backbone.embed(images))[0])


def save(run: Run, path: Path) -> dict[str, Any]:
    """Write the classifier of a finished run: the corrected one, where there is one.

    Args:
        run: the run; evaluated.
        path: the file, named `*.weights.h5`.

    Returns:
        What is in the file beside the weights.

    Raises:
        StageError: the run is not finished, a weight is too large for float16, or the networks
            are none that the file could be read into.
        DataError: another name of the file.
    """
    if not path.name.endswith(SUFFIX):
        raise DataError(f"{path}: expected a name that ends in {SUFFIX}.")
    scores = evaluate.read_report(run)
    scored = [s for s in CLUSTERINGS if scores[s]]
    stage = scores["kept"] if scores.get("kept") in scored else scored[-1]
    if corrected.load(run, warn=True) is None:
        backbone, heads = build.calibrated_clusters(run, stage)
    else:
        stage = corrected.NAME
        backbone, heads = build.shown_clusters(run)
    if isinstance(backbone, Frozen) or not isinstance(heads, ClusterHeads):
        what = "pretrained network" if isinstance(backbone, Frozen) else type(heads).__name__
        raise StageError(
            f"{run.root}: has a {what}, and such a file of weights holds networks that were "
            "trained from the beginning, with linear heads. Another form takes it: "
            f"scan-tf export --run-dir {run.root}"
        )
    images = run.train_images
    facts: dict[str, Any] = {
        "format": FORMAT,
        "scan_tf": __version__,
        "commit": machine.environment()["commit"],
        "model": config.to_dict(run.config.model),
        "data": config.to_dict(run.config.data) | {"path": None},
        "image_size": images.image_size,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "num_clusters": heads.num_clusters,
        "class_names": list(images.class_names),
        "class_of_cluster": scores[stage]["mapping"],
        "cluster_names": names.listed(names.read(run), heads.num_clusters),
        "weights_of": stage,
        "dtype": run.device.dtype,
        "split": scores["split"],
        "scores": {k: scores[stage][k] for k in _SCORES},
    }
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / f"plain{SUFFIX}"
        with warnings.catch_warnings():
            # Of Keras, about how its own variables become NumPy arrays.
            warnings.simplefilter("ignore", DeprecationWarning)
            Classifier(backbone, heads).save_weights(plain)
        with (
            files.atomic(path) as temporary,
            h5py.File(plain, "r") as source,
            # It would lock the file itself, which is locked.
            h5py.File(temporary, "w", locking=False) as target,
        ):
            source.visititems(lambda name, item: _copy(name, item, target))
            target[_FACTS] = json.dumps(facts)
    return facts


def load(path: Path, *, dtype: str = "float32") -> tuple[Classifier, dict[str, Any]]:
    """Rebuild a published classifier.

    Args:
        path: a file that `save` wrote.
        dtype: Keras dtype policy to compute with.

    Returns:
        The classifier, and what is in the file beside the weights.

    Raises:
        DataError: the file is missing, not one of these, damaged, or its weights do not fit.
    """
    facts = _facts(path)
    try:
        model = config.ModelConfig(**facts["model"])
        known = {key: facts[key] for key in ("image_size", "mean", "std")}
        backbone = models.build(model, dtype=dtype, **known)
        heads = new_heads(backbone, 1, facts["num_clusters"])
        classifier = Classifier(backbone, heads)
        for variable in classifier.variables:
            variable.assign(tf.fill(variable.shape, np.nan))
        classifier.load_weights(path)
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{path}: its weights do not fit its network ({error}).") from error
    # Keras passes over layers that it does not find.
    empty = [v.path for v in classifier.variables if not np.isfinite(np.asarray(v)).all()]
    if empty:
        raise DataError(f"{path}: {len(empty)} variables are missing or damaged: {empty[0]}, ...")
    return classifier, facts


def score(
    path: Path, *, split: str | None = None, data_path: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Score a published classifier on the data set that it was trained for.

    Args:
        path: a file that `save` wrote.
        split: "train" or "test"; None: the one that it was published with.
        data_path: where the data set is, as `data.path`.
        progress: show a bar.

    Returns:
        split, num_images, and the scores of `metrics.cluster_scores`.

    Raises:
        DataError: as for `load`; or the images have no labels, or are not of the network's size.
        StageError: the data set has no such split.
        MissingDataError: the data set is not on this machine.
    """
    facts = _facts(path)
    classifier, _ = load(path, dtype=facts["dtype"])
    section = config.DataConfig(**(facts["data"] | {"path": data_path}))
    split = split or facts["split"]
    images = sources.load(section, cast(Split, split))
    if images is None:
        raise StageError(f"--split: '{section.name}' has no split '{split}'.")
    if images.labels is None or images.image_size != facts["image_size"]:
        raise DataError(
            f"{section.name}: expected labelled images of {facts['image_size']} pixels, got "
            f"{images.image_size} pixels, {'no ' if images.labels is None else ''}labels."
        )
    runtime = machine.resolve(config.RuntimeConfig(dtype=facts["dtype"]))
    probs = embed(classifier, images, jit=runtime.jit_step, progress=split if progress else None)
    scores = metrics.cluster_scores(
        images.labels,
        probs.argmax(axis=1),
        num_clusters=facts["num_clusters"],
        num_classes=len(images.class_names),
        probs=probs,
    )
    return {"split": split, "num_images": len(images), **scores}


def _copy(name: str, item: h5py.Group | h5py.Dataset, target: h5py.File) -> None:
    """Copy a group or an array, kernels as float16; HDF5's own compression makes them smaller."""
    if isinstance(item, h5py.Group):
        new = target.require_group(name)
    else:
        values = item[()]
        if values.ndim >= 2:
            with np.errstate(over="ignore"):
                values = values.astype(np.float16)
            if not np.isfinite(values).all():
                raise StageError(f"{name}: a weight is too large for float16, or not finite.")
        packing = {"compression": "gzip", "shuffle": True} if values.ndim else {}
        new = target.create_dataset(name, data=values, **packing)
    for key, value in item.attrs.items():
        new.attrs[key] = value


def _facts(path: Path) -> dict[str, Any]:
    """What is in a published file beside the weights. Raises DataError."""
    try:
        with files.open_regular(path), h5py.File(path, "r") as file:
            facts = dict(json.loads(file[_FACTS][()]))
        numbers = [*facts.get("mean", ()), *facts.get("std", ())]
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise DataError(
            f"{path}: no weights published by scan_tf ({error}). They are written by: "
            "python scripts/results.py weights RUN_DIR NAME.weights.h5"
        ) from error
    if facts.get("format") != FORMAT:
        raise DataError(f"{path}: expected format {FORMAT}, got {facts.get('format')!r}.")
    if len(numbers) != 6 or not all(isinstance(x, (int, float)) and 0 <= x <= 1 for x in numbers):
        raise DataError(f"{path}: expected mean and std of three channels in 0..1, got {numbers}.")
    return facts
