"""Batch sizes that a recipe has and few images do not fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from scan_tf.config import Config

_TRAINED = ("pretext", "scan", "selflabel")


def fitted(
    config: Config, num_images: int, *, given: Collection[str] = ()
) -> tuple[Config, list[str]]:
    """The config with batches of at most half of the images, and a line for each that changed.

    An epoch has at least two steps then. What is at most as large as the images stays as it is.

    Args:
        config: a config.
        num_images: N, of the training images.
        given: dotted keys that were asked for and stay, such as "scan.batch_size".
    """
    notes = []
    for stage in _TRAINED:
        section = getattr(config, stage)
        learning = num_images
        if stage == "scan" and section.selection == "heldout":
            learning -= round(section.heldout_fraction * num_images)
        if section.batch_size <= learning or f"{stage}.batch_size" in given or learning < 4:
            continue
        size = 1 << ((learning // 2).bit_length() - 1)
        notes.append(
            f"{stage}.batch_size: {size} in place of {section.batch_size}, for {learning} images"
        )
        section = dataclasses.replace(section, batch_size=size)
        config = dataclasses.replace(config, **{stage: section})
    return config, notes
