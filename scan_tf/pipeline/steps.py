"""The steps of the pipeline one by one from Python, values in and values out.

    learned = scan_tf.learn_features(images, recipe="digits_simclr")
    neighbors = scan_tf.mine(learned)
    clustered = scan_tf.train_heads(learned, neighbors, num_clusters=10)
    refined = scan_tf.self_label(clustered)
    scan_tf.cluster_scores(labels, refined.labels_)["acc"]

Each takes what the one before has given, `verbose` and settings of its own section, such as
`scan_tf.mine(learned, neighbors__k=5)`; those that are not given are the recipe's. Nothing that is
given is changed: heads can be trained many times on the same features.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scan_tf.config import Config
from scan_tf.errors import ConfigError, DataError
from scan_tf.pipeline.fitting import Fitted, at_work, opened, settings_of, with_settings
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage import files

if TYPE_CHECKING:
    from scan_tf.features.neighbors import Neighbors


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """What a pretext has learnt.

    Attributes:
        features: float32 [N,P], unit rows, by which neighbours are found.
        run: where it was learnt; a temporary folder that is gone with this object.
    """

    features: np.ndarray
    run: Run


def learn_features(
    images: Any, recipe: str | Path | None = None, *, verbose: bool = False, **settings: Any
) -> Learned:
    """Train a pretext task on images, without labels.

    Args:
        images: as for `fit`.
        recipe: as for `fit`; its sections data, model, augment and pretext are read.
        verbose: print how far it is.
        settings: as for `fit`, such as `pretext__epochs=20`.

    Raises:
        ScanError: as `fit`.
    """
    with at_work(verbose):
        from scan_tf.pipeline import build, features, stages

        root = _temporary()
        config = with_settings(settings_of(recipe, None, settings), verbose=verbose, kept=False)
        run = opened(images, None, config, root)
        weakref.finalize(run, shutil.rmtree, root, ignore_errors=True)
        stages.run_stage(run, "pretext")
        task = build.trained_pretext(run)
        return Learned(features.of_pretext(run, task, run.train_images, None), run)


def mine(learned: Learned | np.ndarray, *, verbose: bool = False, **settings: Any) -> Neighbors:
    """Find the nearest neighbours of every image.

    Args:
        learned: what `learn_features` returned; or features float32 [N,P] from anywhere, whose
            other settings are the defaults.
        verbose: print how far it is.
        settings: of the section neighbors, such as `neighbors__k=5`.

    Returns:
        The indices int32 [N,K+1] of the K nearest by the cosine, column 0 being the image itself,
        and how similar they are.

    Raises:
        ConfigError: a setting is bad, or there are fewer than K+1 images.
        DataError: a row of the features is zero or not finite.
    """
    from scan_tf.features import neighbors as mining

    rows, run = (learned.features, learned.run) if isinstance(learned, Learned) else (learned, None)
    config = with_settings(run.config if run else Config(), settings, verbose=verbose, kept=False)
    with at_work(verbose):
        try:
            return mining.mine(
                np.asarray(rows, np.float32),
                config.neighbors,
                k=config.neighbors.k,
                seed=run.seed("neighbors") if run else config.seed,
                progress=verbose,
            )
        except ConfigError as error:
            raise ConfigError(f"neighbors.{error}") from error


def train_heads(
    learned: Learned,
    neighbors: Neighbors,
    num_clusters: int | Literal["auto"] | None = None,
    *,
    verbose: bool = False,
    **settings: Any,
) -> Fitted:
    """Train cluster heads so that an image and its neighbours agree; the best head is kept.

    Args:
        learned: features and the network that makes them.
        neighbors: of its images, as `mine` finds them.
        num_clusters: how many, or "auto"; None: as the recipe says, or the number of classes of a
            folder, or else "auto".
        verbose: print how far it is.
        settings: of the section scan, such as `scan__epochs=20`.

    Returns:
        The clustering; its report is empty.

    Raises:
        DataError: the neighbours are those of other images.
        ScanError: as `fit`.
    """
    if len(neighbors.indices) != len(learned.features):
        raise DataError(
            f"neighbors: of {len(neighbors.indices)} images, expected "
            f"{len(learned.features)}, as many as were learnt from."
        )
    with at_work(verbose):
        from scan_tf.features import neighbors as mining
        from scan_tf.pipeline import stages

        asked = settings
        if num_clusters is not None:
            asked = {**settings, "scan": {"num_clusters": num_clusters} | settings.get("scan", {})}
        run = _copy(learned.run, asked, verbose, without="neighbors")
        with run.working("neighbors") as result:
            folder = run.folder("neighbors")
            mining.save(folder / "train.npz", neighbors)
            files.write_npz(folder / "features.npz", {"train": learned.features}, {})
            result["index"] = neighbors.index
        stages.run_stage(run, "scan")
        return _fitted(run, "scan")


def self_label(clustered: Fitted, *, verbose: bool = False, **settings: Any) -> Fitted:
    """Fine-tune network and head on their own confident predictions.

    Args:
        clustered: what `train_heads` returned.
        verbose: print how far it is.
        settings: of the section selflabel, such as `selflabel__threshold=0.9`.

    Raises:
        DataError: it is what `fit` returned, whose last step this was already.
        ScanError: as `fit`.
    """
    if clustered.run is None:
        raise DataError("clustered: expected what train_heads returned; this is labelled already.")
    with at_work(verbose):
        from scan_tf.pipeline import stages

        run = _copy(clustered.run, settings, verbose, without="selflabel")
        stages.run_stage(run, "selflabel")
        return _fitted(run, run.clusterings()[-1])


def _fitted(run: Run, stage: str) -> Fitted:
    from scan_tf.pipeline import build

    return Fitted(run, *build.calibrated_clusters(run, stage), {}, keep_run=stage == "scan")


def _copy(run: Run, settings: dict[str, Any], verbose: bool, *, without: str) -> Run:
    """A run of its own with what this one has done before a stage."""
    root = _temporary()
    shutil.copytree(run.root, root, dirs_exist_ok=True)
    new = Run(with_settings(run.config, settings, verbose=verbose, kept=False), root)
    new.share_images(run)
    new.redo(without)
    weakref.finalize(new, shutil.rmtree, root, ignore_errors=True)
    return new


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="scan_tf-"))
