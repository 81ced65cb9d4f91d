"""Sections of a config: typed fields, each with a range, a default and a meaning."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import os
import pkgutil
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from scan_tf.errors import ConfigError

# What NumPy and TensorFlow can count to.
_MAX_INTEGER = 2**63 - 1


def setting(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    names: Sequence[str] = (),
    is_name: bool = False,
    is_path: bool = False,
    help: str = "",
) -> Any:
    """A dataclass field with a range and a meaning.

    Args:
        default: its value where none is given.
        low: the least value.
        high: the greatest value.
        above: what the value must be greater than.
        names: the texts to choose from, beside the dotted names of what others wrote.
        is_name: whether the text is the name of a folder, which leads nowhere else.
        is_path: a path, in which `~` at the start is the home folder.
        help: what it means, in a sentence without a full stop; where it is empty, the help of the
            field of that name in the class that is extended.
    """
    metadata = {"low": low, "high": high, "above": above, "names": names, "help": help}
    metadata |= {"is_name": is_name, "is_path": is_path}
    return dataclasses.field(default=default, metadata=metadata)


def chosen(package: str, default: str) -> Any:
    """A dataclass field whose section is the `Config` of the method that its `name` picks.

    Args:
        package: dotted name of the package that holds a module for every method.
        default: the method where none is named.
    """
    return dataclasses.field(
        default_factory=lambda: find_module(package, default, "name").Config(),
        metadata={"package": package, "default": default},
    )


def modules_of(package: str) -> list[str]:
    """Names of the modules in a package, sorted; none of them is imported."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path))


def find_module(package: str, name: str, key: str) -> types.ModuleType:
    """A module by the name in a config: one of `package`, or a dotted name of somebody else's.

    Raises:
        ConfigError: there is none, or it cannot be imported; the message begins with `key`.
    """
    known = modules_of(package)
    if name in known:
        return importlib.import_module(f"{package}.{name}")
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        raise ConfigError(f"{key}: unknown '{shorten(name)}'. {did_you_mean(name, known)}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{key}: '{name}' cannot be imported ({error}). Expected the dotted name of a module "
            f"that Python finds, or one of: {', '.join(known)}."
        ) from error


class Section:
    """Base of all sections: checks the type and range of every field when it is built."""

    def __post_init__(self) -> None:
        """Check every field. Raises ConfigError with the name of the first bad one."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _coerce(hints[field.name], getattr(self, field.name), field.name)
            _check_range(value, field.metadata, field.name)
            _check_name(value, field.metadata.get("names"), field.name)
            if field.metadata.get("is_name"):
                _check_folder(value, field.name)
            if value and field.metadata.get("is_path"):
                value = os.path.expanduser(value)
            object.__setattr__(self, field.name, value)


@dataclasses.dataclass(frozen=True)
class Described:
    """A setting, in words.

    Attributes:
        key: its dotted path, such as "scan.optimizer.lr".
        kind: its type and range, such as "number > 0".
        default: its default, as YAML has it.
        help: what it means.
    """

    key: str
    kind: str
    default: str
    help: str


def describe(section: Section, path: str = "") -> Iterator[Described]:
    """Every setting of a section and of those inside of it, in their order; defaults as it has."""
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, field.name)
        key = f"{path}.{field.name}".strip(".")
        if isinstance(value, Section):
            yield from describe(value, key)
        else:
            kind = _in_words(hints[field.name], field.metadata)
            yield Described(key, kind, _as_yaml(value), help_of(type(section), field.name))


def help_of(section: type[Section], name: str) -> str:
    """What a field means; "" where neither the class nor those that it extends say it."""
    for kind in section.__mro__:
        field = getattr(kind, "__dataclass_fields__", {}).get(name)
        if field is not None and field.metadata.get("help"):
            return str(field.metadata["help"])
    return ""


def _in_words(hint: Any, bounds: Mapping[str, Any]) -> str:
    """A type and a range."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [_in_words(a, bounds) for a in args if a is not type(None)]
        return " | ".join(inner) + (", or null" if type(None) in args else "")
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is tuple:
        return f"{len(args)} numbers"
    if bounds.get("names"):
        return " | ".join([*bounds["names"], "dotted name"])
    names = {int: "integer", float: "number", bool: "true | false", str: "text"}
    text = names.get(hint, _kind(hint))
    low, high, above = (bounds.get(k) for k in ("low", "high", "above"))
    if low is not None and high is not None:
        return f"{text} {low} to {high}"
    if above is not None:
        return f"{text} > {above}" + ("" if high is None else f", <= {high}")
    return text if low is None else f"{text} >= {low}"


def _as_yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def did_you_mean(name: str, known: Iterable[str], *, near: Iterable[str] = ()) -> str:
    """The end of an error message: the nearest known name, and all of them.

    Args:
        name: what was asked for.
        known: names that are listed.
        near: more that may be the nearest one.
    """
    known = sorted(known)
    found = difflib.get_close_matches(name[:100], sorted({*known, *near}), n=1)
    hint = f"Did you mean '{found[0]}'? " if found else ""
    return f"{hint}Available: {', '.join(known)}."


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` asks, without guessing: a bool is no int, an int may serve as a float."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _one_of([a for a in args if a is not type(None)], value, path)
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        hint_text = did_you_mean(value if isinstance(value, str) else "", map(str, args))
        raise ConfigError(f"{path}: {show(value)} is not a choice. {hint_text}")
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(args):
            raise ConfigError(f"{path}: expected {len(args)} values, got {show(value)}.")
        parts = zip(args, value, strict=True)
        return tuple(_coerce(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(parts))
    if hint is float:
        # YAML 1.1 reads 1e-4 (no dot) as a string.
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
            value = float(value)
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {_kind(hint)}, got {show(value)}.")
    if hint is str and "\0" in value:
        raise ConfigError(f"{path}: expected a text without NUL, got {show(value)}.")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {show(value)}.")
    return value


def _one_of(hints: Sequence[Any], value: Any, path: str) -> Any:
    """`value` as the first of the types asks, or as one of the words that the others allow."""
    first, *others = hints
    words = [word for hint in others for word in typing.get_args(hint)]
    if isinstance(value, str) and value in words:
        return value
    try:
        return _coerce(first, value, path)
    except ConfigError as error:
        if not words:
            raise
        expected = ", ".join([_kind(first), *map(str, words[:-1])]) + f" or {words[-1]}"
        raise ConfigError(f"{path}: expected {expected}, got {show(value)}.") from error


def _check_range(value: Any, bounds: Mapping[str, Any], path: str) -> None:
    if isinstance(value, tuple):
        for i, part in enumerate(value):
            _check_range(part, bounds, f"{path}[{i}]")
    if not isinstance(value, (int, float)):
        return
    low, high, above = (bounds.get(k) for k in ("low", "high", "above"))
    if low is not None and value < low:
        raise ConfigError(f"{path}: must be at least {low}, got {_number(value)}.")
    if above is not None and value <= above:
        raise ConfigError(f"{path}: must be greater than {above}, got {_number(value)}.")
    if high is not None and value > high:
        raise ConfigError(f"{path}: must be at most {high}, got {_number(value)}.")
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise ConfigError(f"{path}: must be at most {_MAX_INTEGER}, got {_number(value)}.")


def _number(value: float) -> str:
    return str(value) if abs(value) <= _MAX_INTEGER else show(value).rpartition(" (")[0]


def _check_name(value: Any, names: Sequence[str] | None, path: str) -> None:
    if names and "." not in value and value not in names:
        hint = did_you_mean(value, names)
        raise ConfigError(f"{path}: {show(value)} is not a choice. {hint}")


def _check_folder(value: str, path: str) -> None:
    if value in (".", "..") or not re.fullmatch(r"[^/\\\x00-\x1f]{1,100}", value):
        raise ConfigError(
            f"{path}: expected the name of a folder, of up to 100 characters and without / and \\, "
            f"got {show(value)}."
        )


def _kind(hint: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def show(value: Any) -> str:
    """A value and its type, for error messages."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return f"{shorten(text)} ({type(value).__name__})"


def shorten(text: str, most: int = 200) -> str:
    """A text for an error message: one that is long without its middle."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
