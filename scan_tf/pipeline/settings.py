"""Settings of a run: read by the methods that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scan_tf import config
from scan_tf.methods import catalog


def load(path: str | Path, overrides: Iterable[str] = ()) -> config.Config:
    """Read an experiment's YAML file; `overrides` are strings such as `scan.epochs=20`.

    Raises:
        ConfigError: the file is missing or no YAML, or a setting is bad.
    """
    return config.load(path, overrides, pretext_config=catalog.config_class)


def from_dict(tree: Mapping[str, Any]) -> config.Config:
    """A config from nested mappings. Raises ConfigError as `load` does."""
    return config.from_dict(tree, pretext_config=catalog.config_class)
