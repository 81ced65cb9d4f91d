"""Pretext tasks: one file each, found by name.

A file `foo.py` in this folder with a frozen `Config(PretextConfig)` and a `Method(Pretext)` makes
`pretext: {name: foo}` work: its section of the YAML is typed by that `Config`, and the
conformance tests pick it up.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from scan_tf.config import PretextConfig
from scan_tf.errors import ConfigError
from scan_tf.schema import did_you_mean

if TYPE_CHECKING:
    from scan_tf.task import Pretext


def available() -> list[str]:
    """Names of all pretext tasks."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def config_class(name: str) -> type[PretextConfig]:
    """The class of the pretext section for `name`. Raises ConfigError for an unknown name."""
    config: type[PretextConfig] = _module(name).Config
    return config


def method_class(name: str) -> type[Pretext]:
    """The task for `name`. Raises ConfigError for an unknown name."""
    method: type[Pretext] = _module(name).Method
    return method


def _module(name: str) -> ModuleType:
    if name not in available():
        raise ConfigError(f"pretext.name: unknown '{name}'. {did_you_mean(name, available())}")
    return importlib.import_module(f"{__name__}.{name}")
