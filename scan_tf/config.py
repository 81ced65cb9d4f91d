"""Typed configuration: every setting of the program is a field of one of the sections below.

`load` refuses unknown keys, wrong types and values out of range, and names the dotted path, what
was expected and what was received. Nothing is read from the environment. `scan-tf settings` lists
the settings with their types, ranges, defaults and meanings, all of it read from the fields.

The sections `pretext`, `scan` and `selflabel` are the `Config` of the method that their `name`
picks: a module in the folder of its kind below `scan_tf/methods/`, or any other by a dotted name.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scan_tf.errors import ConfigError
from scan_tf.settings import reading, sealed
from scan_tf.settings.reading import dump as dump
from scan_tf.settings.reading import split_override as split_override
from scan_tf.settings.reading import to_dict as to_dict
from scan_tf.settings.schema import Section, chosen, setting
from scan_tf.settings.sections import AugmentConfig as AugmentConfig
from scan_tf.settings.sections import DataConfig as DataConfig
from scan_tf.settings.sections import EvaluateConfig as EvaluateConfig
from scan_tf.settings.sections import ModelConfig as ModelConfig
from scan_tf.settings.sections import NeighborsConfig as NeighborsConfig
from scan_tf.settings.sections import OptimizerConfig as OptimizerConfig
from scan_tf.settings.sections import PretextConfig as PretextConfig
from scan_tf.settings.sections import RuntimeConfig as RuntimeConfig
from scan_tf.settings.sections import ScanConfig as ScanConfig
from scan_tf.settings.sections import SelfLabelConfig as SelfLabelConfig
from scan_tf.settings.sections import TrainConfig as TrainConfig

# Of the settings, in a run directory.
COPY = "config.yaml"


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """A whole experiment: one YAML file, all stages in it."""

    name: str = setting(
        "run", is_name=True, help="of the run directory, runs/NAME, where none is given"
    )
    seed: int = setting(0, low=0, high=2**31 - 1, help="of everything random")
    clustering_seed: int = setting(
        0, low=0, high=2**31 - 1, help="another number: another clustering on the same pretext"
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    pretext: PretextConfig = chosen("scan_tf.methods.pretext", "simclr")
    neighbors: NeighborsConfig = NeighborsConfig()
    scan: ScanConfig = chosen("scan_tf.methods.clustering", "scan")
    selflabel: SelfLabelConfig = chosen("scan_tf.methods.selflabel", "confident")
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply `key.path=value` overrides.

    Where an override picks another method than the file, such as `pretext.name=rotnet`, the file's
    settings that only the replaced method knows are left out, and named in a warning.

    Args:
        path: the YAML file; it holds only what departs from the defaults.
        overrides: strings such as `scan.epochs=20`; the value is read as YAML.

    Raises:
        ConfigError: the file is missing or no YAML, or a setting is bad.
    """
    return from_dict(reading.read_tree(Config, Path(path), overrides))


def load_run(root: Path, overrides: Iterable[str] = ()) -> Config:
    """The settings of the run in a directory, as `load`; damage of its copy is warned of.

    Raises:
        ConfigError: there is no run, or a setting is bad.
    """
    path = root / COPY
    if not path.exists():
        raise ConfigError(f"{path}: no such file. Give --config, or the directory of a run.")
    found = load(path, overrides)
    sealed.warn_of_changes(path)
    return found


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Build a Config from nested mappings. Raises ConfigError as `load` does."""
    return typing.cast(Config, reading.build(Config, tree))
