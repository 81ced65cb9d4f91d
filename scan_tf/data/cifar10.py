"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes."""

from __future__ import annotations

from scan_tf import data
from scan_tf.config import DataConfig
from scan_tf.data import tfds_any

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


def load(config: DataConfig, split: data.Split) -> data.ImageSet | None:
    """Load a split; "pretext" is "train". Raises MissingDataError when it is not prepared."""
    builder = tfds_any.open_builder("cifar10", config.path)
    stored = "test" if split == "test" else "train"
    if stored not in builder.info.splits:
        return None
    arrays = tfds_any.read(builder, (stored,), size=config.image_size)
    return data.ImageSet(
        name="cifar10",
        split=split,
        images=arrays.images,
        labels=arrays.labels,
        class_names=arrays.class_names,
        mean=MEAN,
        std=STD,
    )
