"""Arguments that many commands share: which run, and settings that depart from its config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scan_tf import lazy
from scan_tf.errors import ConfigError, MissingDataError

if TYPE_CHECKING:
    from scan_tf.config import Config
    from scan_tf.pipeline.run_dir import Run


def add_command(commands: Any, name: str, text: str, more: str = "") -> argparse.ArgumentParser:
    """A command whose line in the list of commands, as a sentence, begins its own help.

    Args:
        commands: of the program.
        name: of the command.
        text: what it does, without a capital letter and a full stop.
        more: what only its own help says.
    """
    description = f"{text[0].upper()}{text[1:]}. {more}".rstrip()
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=description)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; overrides may stand before, between and after the options.

    Args:
        parser: of the program.
        argv: arguments; None: those of the process.
    """
    arguments, rest = parser.parse_known_args(argv)
    if rest and not (hasattr(arguments, "overrides") and all(map(is_override, rest))):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def is_override(text: str) -> bool:
    """Whether an argument is a setting, such as `scan.epochs=20`."""
    return "=" in text and not text.startswith("-")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which run; see `open_run`.

    Args:
        parser: of a command.
    """
    parser.add_argument(
        "--config", metavar="NAME|FILE", help="a recipe (scan-tf configs) or a YAML file"
    )
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where results go (default: runs/NAME)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="FOLDER | key=value",
        help="a folder of images, which needs no --config; settings such as scan.epochs=20",
    )


def open_run(arguments: argparse.Namespace, *, reads_images: bool = True) -> Run:
    """The run that the arguments name; its own config where no other is given.

    What can be refused without TensorFlow is refused before it is loaded.

    Args:
        arguments: `config`, `run_dir` and `overrides`.
        reads_images: refuse images that are not there, unless all stages are done.

    Raises:
        ConfigError: neither is named, or a setting is bad.
        MissingDataError: the images are not on this machine.
        StageError: another program is at work in the run directory.
    """
    settings, root = _settings(arguments)
    from scan_tf import machine
    from scan_tf.data import sources
    from scan_tf.pipeline.run_dir import Run
    from scan_tf.pipeline.stage import STAGES
    from scan_tf.storage.writing import Writing

    _refuse_alone(arguments, settings)
    run = Run(settings, root)
    done = all(run.record(stage).is_done for stage in STAGES)
    done = done and not getattr(arguments, "redo", None)  # what is deleted has to be made again
    if reads_images and not done:
        sources.check(settings.data)
        if not (settings.runtime.strategy == "multi_worker" and machine.helps()):
            Writing.refuse_another(root)
    lazy.load_tensorflow(lambda: run.device)
    return run


def check_run_folder(root: Path) -> None:
    """Raise MissingDataError where there is no such folder."""
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder. Give the directory of a run.")


def _refuse_alone(arguments: argparse.Namespace, settings: Config) -> None:
    """Raise ConfigError where several processes are asked for what one does alone."""
    from scan_tf.pipeline.stage import STAGES

    if settings.runtime.strategy != "multi_worker":
        return
    asked = [o for o in ("minutes", "finish", "stop_after", "seeds") if getattr(arguments, o, None)]
    if arguments.command not in ("run", *STAGES) or asked:
        what = f"--{asked[0].replace('_', '-')}" if asked else f"scan-tf {arguments.command}"
        raise ConfigError(
            f"runtime.strategy: 'multi_worker' is for scan-tf run and its stages, not for {what}. "
            "Add runtime.strategy=none."
        )


def _take_folder(arguments: argparse.Namespace) -> None:
    """The folder of images among the settings, which become those of its run.

    `chosen` of the arguments becomes the recipe, where one was chosen for a new run.

    Raises:
        MissingDataError: it is not there.
        ConfigError: there are two, or a config that is not for folders.
    """
    from scan_tf.settings import reading

    folders = [text for text in arguments.overrides if not is_override(text)]
    if not folders:
        return
    if len(folders) > 1:
        raise ConfigError(f"expected one folder of images, got {', '.join(folders)}.")
    folder = Path(folders[0]).resolve()
    if not folder.is_dir() and arguments.config is not None:
        return  # a setting without its value, which is refused as such
    if not folder.is_dir():
        raise MissingDataError(
            f"{folders[0]}: no such folder. Expected a folder of images, or settings such as "
            "scan.epochs=20."
        )
    arguments.run_dir = arguments.run_dir or Path("runs") / folder.name
    arguments.chosen = None
    if arguments.config is None and not (arguments.run_dir / "config.yaml").exists():
        arguments.config, why = reading.folder_recipe()
        arguments.chosen = arguments.config
        print(f"recipe: {arguments.config} ({why})")
    given = [text for text in arguments.overrides if is_override(text)]
    arguments.overrides = ["data.name=folder", f"data.path={folder}", *given]


def _settings(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The config and the run directory."""
    from scan_tf import config
    from scan_tf.settings import reading

    _take_folder(arguments)
    root = arguments.run_dir
    if arguments.config is not None:
        settings = config.load(reading.find_config(arguments.config), arguments.overrides)
        return settings, root or Path("runs") / settings.name
    if root is None:
        raise ConfigError(
            "--config: give a recipe (scan-tf configs lists them) or a YAML file, or --run-dir of "
            "an existing run."
        )
    return config.load_run(root, arguments.overrides), root
