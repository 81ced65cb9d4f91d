"""Data sets by name: a file in `sets/`, or else one of tensorflow-datasets.

Adding `scan_tf/data/sets/mine.py` with a function `load(config, split)` is all it takes to use
`data.name: mine`. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from scan_tf.config import DataConfig
from scan_tf.data import sets
from scan_tf.data.image_set import SPLITS, ImageSet, Split
from scan_tf.errors import ConfigError
from scan_tf.settings.schema import did_you_mean


def available() -> list[str]:
    """The data sets that have a file of their own, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(sets.__path__))


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load one split of the data set `config.name`.

    Args:
        config: the data section of the configuration.
        split: "pretext" (what the pretext task learns from), "train" or "test".

    Returns:
        The images, or None where the data set has no such split.

    Raises:
        ConfigError: the name or the split is unknown, or `config.path` is needed and missing.
        DataError: the images cannot be used.
        MissingDataError: the data is not on this machine; the message says how to prepare it.
    """
    if split not in SPLITS:
        raise ConfigError(f"split: '{split}' is unknown. {did_you_mean(str(split), SPLITS)}")
    _check_classes(config)
    return _module(config).load(config, split)


def check(config: DataConfig) -> None:
    """Refuse images that are not where they should be, without reading them or loading TensorFlow.

    Asks the function `check(config)` of the data set's module, where it has one. Raises as `load`.
    """
    _check_classes(config)
    check = getattr(_module(config), "check", None)
    if check is not None:
        check(config)


def pretext_is_train(config: DataConfig) -> bool:
    """Whether "pretext" and "train" are the same images, which need not be loaded twice."""
    return bool(getattr(_module(config), "PRETEXT_IS_TRAIN", False))


def _check_classes(config: DataConfig) -> None:
    if config.classes != "all" and config.name != "imagenet":
        raise ConfigError(
            f"data.classes: '{config.classes}' is a part of imagenet, and data.name is "
            f"'{config.name}'. Leave it out, or set data.name to imagenet."
        )


def _module(config: DataConfig) -> ModuleType:
    known = config.name in available()
    name = f"{sets.__name__}.{config.name}" if known else "scan_tf.data.tfds"
    return importlib.import_module(name)
