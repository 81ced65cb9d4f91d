"""Methods by name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from scan_tf.config import PretextConfig
from scan_tf.errors import ConfigError
from scan_tf.methods import pretext
from scan_tf.schema import did_you_mean

if TYPE_CHECKING:
    from scan_tf.methods.task import Pretext


def available() -> list[str]:
    """Names of all pretext tasks."""
    return sorted(m.name for m in pkgutil.iter_modules(pretext.__path__))


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
    return importlib.import_module(f"{pretext.__name__}.{name}")
