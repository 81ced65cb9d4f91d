"""What is to be remembered of the training images when they are no longer at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import StageError


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """Of the training images.

    Attributes:
        count: how many, N.
        size: their side in pixels, S.
        mean: per channel, of images scaled to 0..1.
        std: per channel.
        num_classes: where it is known.
    """

    count: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_classes: int | None

    @classmethod
    def of(cls, images: ImageSet) -> ImageFacts:
        """The facts of images at hand."""
        about = (len(images), images.image_size, images.mean, images.std)
        return cls(*about, num_classes=images.num_classes)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> ImageFacts:
        """What `dataclasses.asdict` gave, by way of JSON. Raises TypeError for anything else."""
        return cls(**{**tree, "mean": tuple(tree["mean"]), "std": tuple(tree["std"])})


def num_clusters(wanted: int | None, images: ImageFacts) -> int:
    """How many clusters: as set, or else as many as classes, where known. Raises StageError."""
    count = int(wanted or images.num_classes or 0)
    if not 2 <= count <= images.count:
        source = "scan.num_clusters" if wanted else "the number of classes"
        raise StageError(
            f"{source}: is {count}, expected 2 to {images.count}, the number of training images."
        )
    return count
