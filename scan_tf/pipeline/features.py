"""Features of the images of a run: those of a frozen network are computed once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from scan_tf.augment import policies
from scan_tf.config import Config
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import ConfigError
from scan_tf.features import cache
from scan_tf.features.embedding import Network, embed
from scan_tf.methods import catalog
from scan_tf.methods.task import Pretext
from scan_tf.models import pretrained
from scan_tf.models.backbone import Backbone
from scan_tf.models.frozen import Frozen
from scan_tf.models.given import Given
from scan_tf.pipeline import sizes
from scan_tf.pipeline.run_dir import Run
from scan_tf.training.loader import compiled


def feature_file(config: Config) -> str | None:
    """The file of features in place of a network, which could compute those of other images."""
    weights = str(getattr(config.pretext, "weights", ""))
    return weights if Path(weights).suffix in pretrained.FEATURE_FILES else None


def check(config: Config) -> None:
    """Refuse stages that look at views of images where there is no network for them.

    Also views that are looked at once, of a network that changes.

    Raises:
        ConfigError: naming the setting.
    """
    _check_cached(config)
    file = feature_file(config)
    if file is None:
        return
    why = f"{file} holds features, and no network for views of images"
    if config.selflabel.epochs:
        raise ConfigError(f"selflabel.epochs: must be 0, got {config.selflabel.epochs}: {why}.")
    if config.scan.cached_views and config.scan.augmentation != "none":
        raise ConfigError(f"scan.cached_views: must be 0, got {config.scan.cached_views}: {why}.")


def _check_cached(config: Config) -> None:
    count, name = config.selflabel.cached_views, config.selflabel.name
    if not count or not config.selflabel.epochs:
        return
    if not getattr(config.pretext, "frozen", False):
        raise ConfigError(
            f"selflabel.cached_views: must be 0, got {count}: the last stage trains the network, "
            "so that its features change. They stay with pretext.name=pretrained."
        )
    if catalog.method_class("selflabel", name).cached is None:
        raise ConfigError(
            f"selflabel.cached_views: must be 0, got {count}: selflabel.name={name} looks at "
            "images, not at their features."
        )


def of_backbone(run: Run, backbone: Backbone, images: ImageSet, name: str | None) -> np.ndarray:
    """Features float32 [N,D] of a backbone; `name`: of the progress bar, None: no bar."""
    if isinstance(backbone, Frozen):
        return backbone.project(of_frozen(run, backbone, images))
    return embed(backbone.embed, images, **run.inference(name))


def of_views(
    run: Run, backbone: Backbone, images: ImageSet, augmentation: str, count: int, stage: str
) -> np.ndarray:
    """Features float32 [V,N,D] of augmented views of every image, with the seed of a stage.

    Args:
        run: the run.
        backbone: the network.
        images: N images.
        augmentation: the policy.
        count: V.
        stage: by whose seed.
    """
    size, mean = images.image_size, images.mean
    policy = policies.make(augmentation, run.config.augment, size=size, mean=mean)
    policy = compiled(policy, run.device)
    views = [
        embed(
            backbone.embed,
            images,
            policy=policy,
            seed=run.seed(stage) ^ view,
            **run.inference(f"view {view + 1} of {count}"),
        )
        for view in range(count)
    ]
    return np.stack(views)


def of_pretext(run: Run, task: Pretext, images: ImageSet, name: str | None) -> np.ndarray:
    """Features float32 [N,P] by which neighbours are found, unit rows."""
    network = embedding(run.config, task)
    if isinstance(task.backbone, Frozen):
        return of_backbone(run, task.backbone, images, name)
    return embed(network, images, **run.inference(name))


def embedding(config: Config, task: Pretext) -> Network:
    """The network that maps images to what neighbours are found by.

    Raises:
        ConfigError: that is to be the projection of a pretext that has none.
    """
    sizes.check_projection(config)
    return {
        "auto": task.embed,
        "backbone": lambda images: tf.math.l2_normalize(task.backbone.embed(images), axis=-1),
        "projection": lambda images: task.project(task.backbone.embed(images)),
    }[config.neighbors.features]


def mined_by(config: Config, task: Pretext) -> str:
    """What neighbours are found by: "backbone", "projection", or in words what else."""
    wanted = config.neighbors.features
    return task.embedding if wanted == "auto" else wanted


def of_frozen(run: Run, backbone: Frozen, images: ImageSet) -> np.ndarray:
    """Features float32 [N,D'] of the network inside, before anything that was fitted on them."""
    if isinstance(backbone.network, Given):
        return backbone.network.of(images.paths, len(images), run.config.data.path)
    progress = f"features of {images.split}" if run.config.runtime.progress else None
    return cache.cached(
        backbone.network.embed,
        images,
        run.folder("pretext") / "features",
        key=pretrained.digest(backbone.network),
        progress=progress,
    )
