"""Array: images in a NumPy file, `data.path: FILE.npy`; all of them are "train".

uint8 [N,H,W,3], [N,H,W,1] or [N,H,W]. Where a file `FILE.labels.npy` lies beside it, that holds the
labels [N], for the evaluation alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scan_tf.config import DataConfig
from scan_tf.data.arrays import from_array
from scan_tf.data.image_set import ImageSet, Split
from scan_tf.errors import ConfigError, DataError, MissingDataError

PRETEXT_IS_TRAIN = True


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load the images, at `image_size` or as they are; memory-mapped. No test split: None.

    Raises:
        ConfigError: `data.path` is not given.
        MissingDataError: the file does not exist.
        DataError: it is no such array.
    """
    check(config)
    if split == "test":
        return None
    path = Path(str(config.path))
    beside = labels_of(path)
    labels = _read(beside) if beside.exists() else None
    return from_array(_read(path), labels, image_size=config.image_size)


def check(config: DataConfig) -> None:
    """Refuse a file that is not there; raises as `load`."""
    if config.path is None:
        raise ConfigError("data.path: data.name 'array' needs it: data.path: FILE.npy.")
    if not Path(config.path).is_file():
        raise MissingDataError(f"{config.path}: no such file (data.path).")


def labels_of(path: Path) -> Path:
    """Where the labels of a file of images are looked for."""
    return path.with_suffix(".labels.npy")


def _read(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: expected an array that numpy.save wrote ({error}).") from error
