"""STL-10: 5,000 training, 8,000 test and 100,000 unlabelled images of 96x96 pixels, 10 classes.

The pretext learns from train + unlabelled, 105,000 images (SCAN, section 3.1); they are 2.9 GB,
which `images.allocate` maps from a file instead of holding in memory.
"""

from __future__ import annotations

from scan_tf.config import DataConfig
from scan_tf.data import tfds
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet, Split

CLASS_NAMES = (
    "airplane",
    "bird",
    "car",
    "cat",
    "deer",
    "dog",
    "horse",
    "monkey",
    "ship",
    "truck",
)


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load a split; "pretext" is train, then unlabelled where it was prepared, without labels.

    Normalised with the statistics of ImageNet (official configuration).

    Raises:
        MissingDataError: the set is not prepared on this machine.
    """
    return tfds.load_set("stl10", config, split, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def check(config: DataConfig) -> None:
    """Raise MissingDataError where the set is not prepared."""
    tfds.check(config, "stl10")
