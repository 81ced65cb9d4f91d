"""Whether images and settings are enough for every stage, asked before the first one."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from scan_tf.config import Config
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.methods import catalog
from scan_tf.pipeline.stage import TRAINED

# Fewer cannot be parted into batches with neighbours.
LEAST_IMAGES = 4


def learning(config: Config, stage: str, num_images: int) -> int:
    """How many of the training images a stage learns from."""
    held_out = 0
    if stage == "scan" and config.scan.selection == "heldout":
        held_out = round(config.scan.heldout_fraction * num_images)
    return num_images - held_out


def fitted(
    config: Config, num_images: int, *, given: Collection[str] = ()
) -> tuple[Config, dict[str, str]]:
    """The config with smaller batches and fewer neighbours where there are fewer images.

    Batches become at most half of the images, so that an epoch has at least two steps, and
    neighbours a quarter of them, so that they are not all the same. With
    what each setting that was changed is now, and was.

    Args:
        config: a config.
        num_images: N, of the training images.
        given: dotted keys that were asked for and stay, such as "scan.batch_size".
    """
    notes: dict[str, str] = {}
    for stage in TRAINED:
        section, count = getattr(config, stage), learning(config, stage, num_images)
        if not section.epochs:
            continue
        if section.batch_size <= count or f"{stage}.batch_size" in given or count < 4:
            continue
        size = 1 << ((count // 2).bit_length() - 1)
        notes[f"{stage}.batch_size"] = f"{size} in place of {section.batch_size}"
        section = dataclasses.replace(section, batch_size=size)
        config = dataclasses.replace(config, **{stage: section})
    for name in ("k", "k_validation"):
        wanted, most = getattr(config.neighbors, name), num_images // 4
        if wanted < num_images or f"neighbors.{name}" in given or most < 1:
            continue
        notes[f"neighbors.{name}"] = f"{most} in place of {wanted}"
        fewer: dict[str, Any] = {name: most}
        config = dataclasses.replace(
            config, neighbors=dataclasses.replace(config.neighbors, **fewer)
        )
    return config, notes


def check_count(num_images: int) -> None:
    """Raise DataError where there are too few images for any clustering."""
    if num_images < LEAST_IMAGES:
        are = "is only 1 image" if num_images == 1 else f"are only {num_images} images"
        raise DataError(
            f"there {are} to learn from, expected at least {LEAST_IMAGES}; about 20 of each kind "
            "are a beginning. Give a folder with more of them."
        )


def check(config: Config, num_images: int, num_test: int | None) -> None:
    """Refuse what a later stage would refuse.

    Args:
        config: a config.
        num_images: N, of the training images.
        num_test: of the test images; None: there is no such split.

    Raises:
        DataError: too few images for a batch or for the neighbours.
        StageError: epoch and head are to be chosen on test images that there are not.
        ConfigError: neighbours are to be found by a projection that the pretext does not have.
    """
    check_projection(config)
    for stage in TRAINED:
        size, count = getattr(config, stage).batch_size, learning(config, stage, num_images)
        if size > count and getattr(config, stage).epochs:
            raise DataError(
                f"{stage}.batch_size: {size} is more than the {count} images to train on. "
                f"Set it to {count} or less."
            )
    if config.scan.selection == "test" and num_test is None:
        raise StageError(f"scan.selection: 'test', but '{config.data.name}' has no test split.")
    validation = {
        "train": num_images,
        "heldout": num_images - learning(config, "scan", num_images),
        "test": num_test or 0,
    }[config.scan.selection]
    for name, count in (("k", num_images), ("k_validation", validation)):
        k = getattr(config.neighbors, name)
        if k >= count:
            advice = f"Set neighbors.{name} <= {count - 1}." if count > 1 else "Add images."
            raise DataError(
                f"neighbors.{name} = {k} needs at least {k + 1} images, got {count}. {advice}"
            )


def check_projection(config: Config) -> None:
    """Raise ConfigError where neighbours are to be found by a projection that there is not."""
    method = catalog.method_class("pretext", config.pretext.name)
    if config.neighbors.features == "projection" and not method.projects:
        raise ConfigError(
            f"neighbors.features: 'projection', but the pretext '{config.pretext.name}' has none. "
            "Expected auto or backbone."
        )
