"""The whole pipeline as one call from Python: images in, labels and a classifier out.

The steps one by one are in `steps.py`, the estimator of scikit-learn over the same code in
`estimator.py`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scan_tf import config as configs
from scan_tf import lazy, machine
from scan_tf.config import Config
from scan_tf.data.arrays import checked, from_array, square
from scan_tf.data.image_set import ImageSet
from scan_tf.data.images import fitter, read_image
from scan_tf.data.listing import list_images
from scan_tf.data.sets.array import labels_of
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.pipeline import sizes
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import up_to
from scan_tf.settings import reading
from scan_tf.storage import files

if TYPE_CHECKING:
    from scan_tf.models import Backbone, ClusterHeads

# Sized for a folder of a thousand photographs and two cores.
DEFAULT_RECIPE = "folder_from_scratch"
# An array that is smaller than the recipe's images is not enlarged, but for the network's sake.
_LEAST_SIZE = 16


class Fitted:
    """What `fit` returns.

    Attributes:
        labels_: int64 [N], the cluster of every training image.
        probabilities_: float32 [N,C], rows sum to 1.
        features_: float32 [N,D], of the backbone.
        paths_: the file of every training image, where they came from a folder; else None.
        report: the scores, as `eval/report.json` has them; what needs labels is None without.
        config: all settings that it was made with.
        run: where it was made, where that goes on; else None.
    """

    def __init__(
        self,
        run: Run,
        backbone: Backbone,
        heads: ClusterHeads,
        report: dict[str, Any],
        *,
        keep_run: bool = False,
    ):
        self.config, self.report, self.paths_ = run.config, report, run.train_images.paths
        self.run = run if keep_run else None
        self._backbone, self._heads = backbone, heads
        self._batch_size = run.config.evaluate.batch_size
        self._network = lazy.tf.function(
            backbone.embed, jit_compile=run.device.jit_step, autograph=False
        )
        from scan_tf.features.embedding import head_probs
        from scan_tf.pipeline import features

        self.features_ = features.of_backbone(run, backbone, run.train_images, None)
        self.probabilities_ = head_probs(heads, self.features_)[0]
        self.labels_ = self.probabilities_.argmax(axis=1)

    def predict(self, images: Any) -> np.ndarray:
        """The cluster of every image, int64 [N].

        Args:
            images: uint8 [N,H,W,3], [N,H,W,1] or [N,H,W], an `ImageSet`, or a folder (sorted).

        Raises:
            DataError: they are none of these, or a file cannot be read.
            MissingDataError: there is no such folder.
        """
        return self.predict_proba(images).argmax(axis=1)

    def predict_proba(self, images: Any) -> np.ndarray:
        """The probability of every cluster, float32 [N,C]; takes and raises what `predict` does.

        Args:
            images: uint8 [N,H,W,3], [N,H,W,1] or [N,H,W], an `ImageSet`, or a folder (sorted).
        """
        size = self._backbone.image_size
        if isinstance(images, (str, Path)):
            fit = fitter(size)
            found = list_images([images])
            if not found:
                raise DataError(f"{images}: no images.")
            pixels = np.stack([fit(read_image(file)) for file in found])
        else:
            array = images.images[:] if isinstance(images, ImageSet) else images
            pixels = square(checked(array), size)
        from scan_tf.features.embedding import embed, head_probs

        features = embed(self._network, from_array(pixels), batch_size=self._batch_size)
        return head_probs(self._heads, features)[0]

    def export(self, path: str | Path) -> Path:
        """Write a SavedModel: images uint8 [B,H,W,3] -> cluster, probabilities and features.

        Args:
            path: the folder to write; its parents are made.

        Raises:
            StageError: `path` holds something else.
        """
        from scan_tf.pipeline import savedmodel

        savedmodel.save(Path(path), self._backbone, self._heads)
        return Path(path)


def fit(
    images: Any,
    num_clusters: int | Literal["auto"] | None = None,
    recipe: str | Path | None = None,
    run_dir: str | Path | None = None,
    *,
    labels: Any = None,
    verbose: bool = False,
    **settings: Any,
) -> Fitted:
    """Sort images into clusters without labels.

    Args:
        images: uint8 [N,H,W,3], [N,H,W,1] or [N,H,W], an `ImageSet`, or a folder of image files.
        num_clusters: how many, or "auto"; None: the number of classes, where labels are known,
            else "auto": decided on the features.
        recipe: the name of a recipe (`scan-tf configs`) or a YAML file; None:
            "folder_from_scratch".
        run_dir: where everything is kept, so that the same call goes on after an interruption;
            None: in a temporary folder that is gone at the end.
        labels: [N], for the scores of the report alone; those of a folder are the names of its
            sub-folders.
        verbose: print how far it is.
        settings: as nested mappings, or flat with two underscores: `scan__epochs=20`.

    Returns:
        Labels, probabilities and features of the images, and the classifier.

    Raises:
        ScanError: bad settings or images, a missing folder, or an interruption. Global random
            state is left as it was, and nothing is printed unless asked.
    """
    config = settings_of(recipe, num_clusters, settings)
    config = with_settings(config, verbose=verbose, kept=run_dir is not None)
    with at_work(verbose, config), contextlib.ExitStack() as stack:
        from scan_tf.pipeline import build, evaluate, stages

        root = Path(run_dir or tempfile.mkdtemp(prefix="scan_tf-"))
        if run_dir is None:
            stack.callback(shutil.rmtree, root, ignore_errors=True)
        run = opened(images, labels, config, root)
        stages.check(run)
        for stage in up_to("evaluate"):
            stages.run_stage(run, stage)
        backbone, heads = build.shown_clusters(run)
        return Fitted(run, backbone, heads, dict(evaluate.read_report(run)))


@contextlib.contextmanager
def at_work(verbose: bool, config: Config | None = None) -> Iterator[None]:
    """In silence unless `verbose`, with global random state put back at the end.

    Args:
        verbose: whether anything is printed.
        config: of what follows, whose devices TensorFlow is to have.
    """
    with contextlib.ExitStack() as stack:
        if not verbose:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        configure = None if config is None else functools.partial(machine.resolve, config.runtime)
        lazy.load_tensorflow(configure)
        stack.enter_context(kept_random_state())
        yield


def opened(images: Any, labels: Any, config: Config, root: Path) -> Run:
    """A run over images from Python, its batches fitted to their number."""
    run = Run(_with_images(images, labels, config, root), root)
    run.config, notes = sizes.fitted(run.config, len(run.train_images))
    for key, change in notes.items():
        print(f"{key}: {change}")
    return run


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the global random state of Python, NumPy, TensorFlow and Keras back at the end."""
    from keras.src.backend.common import global_state
    from tensorflow.python.eager import context as eager

    names = ("global_random_seed", "global_seed_generator")
    keras_state = {name: global_state.get_global_attribute(name) for name in names}
    python, legacy, context = random.getstate(), np.random.get_state(), eager.context()
    seed, operations = context._seed, getattr(context, "_rng", None)
    operations = operations and operations.getstate()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        context._set_global_seed(seed)
        if operations:
            context._rng.setstate(operations)
        for name, value in keras_state.items():
            global_state.set_global_attribute(name, value)


def settings_of(
    recipe: str | Path | None,
    num_clusters: int | Literal["auto"] | None,
    settings: Mapping[str, Any],
) -> Config:
    """A recipe with other settings, nested or flat. Raises ConfigError for several processes."""
    tree = reading.read_yaml(reading.find_config(recipe or DEFAULT_RECIPE))
    # As on the command line: another method goes without what only the recipe's method knows.
    reading.leave_out_replaced(Config, tree, [*_methods(settings)])
    for name, value in settings.items():
        _merge(tree, name.split("__"), value)
    if num_clusters is not None:
        _merge(tree, ["scan", "num_clusters"], num_clusters)
    config = configs.from_dict(tree)
    if config.runtime.strategy == "multi_worker":
        raise ConfigError("runtime.strategy: 'multi_worker' is for scan-tf run. Try mirrored.")
    return config


def _methods(settings: Mapping[str, Any]) -> Iterator[tuple[list[str], Any, str]]:
    """The methods that settings name, such as `pretext={"name": "moco"}`, as overrides."""
    for key, value in settings.items():
        keys = key.split("__")
        if isinstance(value, Mapping) and len(keys) == 1 and "name" in value:
            yield [*keys, "name"], value["name"], key
        elif len(keys) == 2 and keys[1] == "name":
            yield keys, value, key


def with_settings(
    config: Config, settings: Mapping[str, Any] | None = None, *, verbose: bool, kept: bool
) -> Config:
    """A config with other settings, and without what nobody will look at."""
    tree = configs.to_dict(config)
    for name, value in (settings or {}).items():
        _merge(tree, name.split("__"), value)
    tree["runtime"]["progress"] = verbose
    if not kept:
        tree["evaluate"]["pictures"] = tree["runtime"]["tensorboard"] = False
    return configs.from_dict(tree)


def _merge(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    *sections, leaf = keys
    for section in sections:
        inner = tree.get(section) or {}
        tree[section] = tree = dict(inner) if isinstance(inner, Mapping) else {"name": inner}
    if isinstance(value, Mapping):
        for key, item in value.items():
            _merge(tree, [leaf, key], item)
    else:
        tree[leaf] = value


def _with_images(images: Any, labels: Any, config: Config, root: Path) -> Config:
    """The config that reads the images; an array is put into the run directory first."""
    if isinstance(images, (str, Path)):
        if labels is not None:
            raise ConfigError("labels: those of a folder are the names of its sub-folders.")
        return _replaced(config, "data", name="folder", path=str(images))
    if isinstance(images, ImageSet):
        known = None if images.labels is None else np.array(images.class_names)[images.labels]
        images, labels = images.images[:], known if labels is None else labels
    pixels = checked(images)
    side = min(pixels.shape[1:3])
    size = max(_LEAST_SIZE, min(side, config.data.image_size or side))
    found = from_array(square(pixels, size), labels)
    fitted, path = found.images[:], root / "images.npy"
    if path.exists():
        there = np.load(path, mmap_mode="r", allow_pickle=False)
        if there.shape != fitted.shape or not np.array_equal(there, fitted):
            raise StageError(f"{root}: holds a run on other images. Use another run_dir.")
    else:
        files.write_npy(path, fitted)
    if labels is not None:
        files.write_npy(labels_of(path), np.asarray(labels))
    return _replaced(config, "data", name="array", path=str(path), image_size=size)


def _replaced(config: Config, section: str, **values: Any) -> Config:
    tree = configs.to_dict(config)
    tree[section] |= values
    return configs.from_dict(tree)
