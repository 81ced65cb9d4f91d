"""The commands that only tell: which recipes, which settings, how far a run is."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from scan_tf.cli.arguments import add_command, is_override
from scan_tf.errors import ConfigError

_WIDTH = 96


def add(commands: Any) -> None:
    """Add the commands."""
    text = "list the recipes that --config takes by name"
    configs = add_command(commands, "configs", text)
    configs.set_defaults(function=_configs)

    text = "list every setting: its type and range, its default, what it means"
    settings = add_command(
        commands,
        "settings",
        text,
        "Those of another method: scan-tf settings pretext pretext.name=moco",
    )
    settings.add_argument("section", nargs="?", metavar="SECTION", help="e.g. scan.optimizer")
    settings.add_argument("overrides", nargs="*", metavar="key=value", help="other defaults")
    settings.add_argument("--markdown", action="store_true", help="all of them, as a page")
    settings.set_defaults(function=_settings)

    text = "show what of a run is done, and how long the rest takes"
    status = add_command(commands, "status", text)
    status.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    status.set_defaults(function=_status)

    text = "compare finished runs: a table and a chart of what each stage reached"
    compare = add_command(commands, "compare", text)
    compare.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN")
    compare.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where table and chart go"
    )
    compare.set_defaults(function=_compare)


def _configs(_: argparse.Namespace) -> None:
    from scan_tf.settings import reading

    found = reading.recipes()
    width = max(map(len, found))
    for name, path in found.items():
        print(f"{name:{width}}  {reading.summary(path)}")
    print("\nscan-tf run --config NAME --run-dir DIR [key=value ...]")


def _settings(arguments: argparse.Namespace) -> None:
    from scan_tf import config
    from scan_tf.cli import settings_page
    from scan_tf.settings import reading, schema

    if arguments.markdown:
        print(settings_page.markdown(), end="")
        return
    section = arguments.section
    if section is not None and is_override(section):
        arguments.overrides.insert(0, section)
        section = None
    default = config.from_dict(reading.with_overrides(config.Config, {}, arguments.overrides))
    found = list(schema.describe(default))
    shown = [d for d in found if section is None or f"{d.key}.".startswith(f"{section}.")]
    if not shown:
        known = {d.key.rpartition(".")[0] for d in found} - {""}
        raise ConfigError(f"settings: no '{section}'. {schema.did_you_mean(section, known)}")
    for setting in shown:
        print(f"{setting.key} = {setting.default}    ({settings_page.kind_of(setting)})")
        print(textwrap.fill(setting.help, _WIDTH, initial_indent="    ", subsequent_indent="    "))


def _status(arguments: argparse.Namespace) -> None:
    from scan_tf.pipeline import status

    print(status.describe(arguments.run_dir))


def _compare(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import compare

    print(compare.write(arguments.run_dirs, arguments.output))
    print(f"\ntable and chart: {arguments.output}")
