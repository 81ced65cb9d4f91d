"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes."""

from __future__ import annotations

from scan_tf.config import DataConfig
from scan_tf.data import tfds
from scan_tf.data.image_set import ImageSet, Split

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Official configuration of SCAN.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)

PRETEXT_IS_TRAIN = True


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load a split; "pretext" is "train". Raises MissingDataError: not prepared."""
    return tfds.load_set("cifar10", config, split, mean=MEAN, std=STD)


def check(config: DataConfig) -> None:
    """Raise MissingDataError where the set is not prepared."""
    tfds.check(config, "cifar10")
