"""Methods by kind and name: `pretext`, `clustering` and `selflabel`, one module for each method.

A module holds `Config`, the typed section of its settings, and `Method`, the task. It is found by
its name in the folder of its kind, or by the dotted name of a module of somebody else's.
"""

from __future__ import annotations

from typing import Any, Literal

from scan_tf.settings import schema

Kind = Literal["pretext", "clustering", "selflabel"]
# The section of the config that picks a method of each kind.
SECTIONS: dict[Kind, str] = {"pretext": "pretext", "clustering": "scan", "selflabel": "selflabel"}


def available(kind: Kind = "pretext") -> list[str]:
    """Names of the methods of a kind that come with this package, sorted.

    Args:
        kind: "pretext", "clustering" or "selflabel".
    """
    return schema.modules_of(f"scan_tf.methods.{kind}")


def config_class(kind: Kind, name: str) -> Any:
    """The class of the section for a method. Raises ConfigError for an unknown name."""
    return _module(kind, name).Config


def method_class(kind: Kind, name: str) -> Any:
    """The task of a method. Raises ConfigError for an unknown name."""
    return _module(kind, name).Method


def _module(kind: Kind, name: str) -> Any:
    return schema.find_module(f"scan_tf.methods.{kind}", name, f"{SECTIONS[kind]}.name")
