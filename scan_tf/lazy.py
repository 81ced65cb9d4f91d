"""What is imported when it is first used: names of a package (PEP 562), and TensorFlow itself.

The modules of methods take `tf` and `keras` from here, so that the settings of a method can be read
and checked without loading TensorFlow.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

__all__ = ["keras", "names", "tf"]


class _Module:
    """Stands for a module until one of its attributes is used."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import keras
    import tensorflow as tf
else:
    keras, tf = _Module("keras"), _Module("tensorflow")


def names(
    package: str, where: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for the `__init__.py` of a package.

    Args:
        package: its `__name__`.
        where: public name -> the module inside the package that defines it, such as
            "image_set"; with ":" and the name there, where that is another.
    """

    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, attribute = where[name].partition(":")
        value = getattr(importlib.import_module(f"{package}.{module}"), attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *where}), sorted(where)
