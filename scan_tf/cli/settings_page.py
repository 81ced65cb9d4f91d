"""All settings as a page: docs/settings.md, which `scan-tf settings --markdown` writes."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator

from scan_tf.config import Config
from scan_tf.methods import catalog
from scan_tf.settings import schema
from scan_tf.settings.schema import Described

_TITLE = """# Settings

Every setting by its dotted name, as the command line (`scan.epochs=20`) and, nested, the YAML files
take it. `scan-tf settings [SECTION] [key=value ...]` shows the same in a terminal.
`scan-tf settings --markdown` writes this page from the fields themselves; do not edit it.
"""


def markdown() -> str:
    """The page."""
    return "\n".join([_TITLE, *_sections()])


def _sections() -> Iterator[str]:
    config = Config()
    hints = typing.get_type_hints(Config)
    sections = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    plain = {n: s for n, s in sections.items() if not isinstance(s, schema.Section)}
    yield _table(d for d in schema.describe(config) if d.key in plain)
    kinds: dict[str, catalog.Kind] = {s: kind for kind, s in catalog.SECTIONS.items()}
    for name, section in sections.items():
        if name in plain:
            continue
        yield f"## {name}\n"
        yield f"{inspect.getdoc(hints[name])}\n"
        rows = list(schema.describe(section, name))
        if name not in kinds:
            yield _table(rows)
            continue
        common = _rows_of(hints[name], rows, name)
        yield _table(common.values())
        yield from _methods(kinds[name], name, common)


def _rows_of(base: type, rows: Iterable[Described], section: str) -> dict[str, Described]:
    """The settings that every method of a section has, by key."""
    fields = {f"{section}.{field.name}" for field in dataclasses.fields(base)}
    return {d.key: d for d in rows if ".".join(d.key.split(".")[:2]) in fields}


def _methods(kind: catalog.Kind, section: str, common: dict[str, Described]) -> Iterator[str]:
    """What each method has beside the common settings, or has another default for."""
    for name in catalog.available(kind):
        config = catalog.config_class(kind, name)()
        rows = [
            d
            for d in schema.describe(config, section)
            if d.key != f"{section}.name"
            and (d.key not in common or d.default != common[d.key].default)
        ]
        yield f"### {section}.name = {name}\n"
        yield _table(rows) if rows else "Nothing of its own.\n"


def _table(settings: Iterable[Described]) -> str:
    """One row a setting."""
    rows = ["| setting | default | type and range | meaning |", "|---|---|---|---|"]
    for d in settings:
        cells = (f"`{d.key}`", f"`{d.default}`", kind_of(d), d.help)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def kind_of(setting: Described) -> str:
    """The type and range; for the name of a method, those there are."""
    for kind, section in catalog.SECTIONS.items():
        if setting.key == f"{section}.name":
            return f"{' | '.join(catalog.available(kind))}, or a dotted name"
    return setting.kind
