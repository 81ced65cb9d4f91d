"""The program `scan-tf`. The scripts in `scripts/` call the same functions."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scan_tf import __version__
from scan_tf.errors import ConfigError, Interrupted, ScanError
from scan_tf.pipeline.stage import STAGES, TRAINED

if TYPE_CHECKING:
    from scan_tf.pipeline.run_dir import Run

_ALL = "run"
_GO_ON = "Run the same command, without --redo, to go on."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments; None: those of the process.

    Returns:
        0 done, 2 bad input or config, 3 data missing, 130 or 143 interrupted and resumable.
    """
    parser = _parser()
    arguments = parse(parser, argv)
    if getattr(arguments, "seeds", None) is not None:
        _sort_seeds(parser, arguments)
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        arguments.function(arguments)
    except ScanError as error:
        print(f"scan-tf: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"scan-tf: {error}", file=sys.stderr)
        return ScanError.exit_code
    except KeyboardInterrupt:
        print(f"scan-tf: interrupted. {_GO_ON}", file=sys.stderr)
        return 130
    return 0


def stage_main(stage: str) -> int:
    """The program of `scripts/<stage>.py`: the arguments of `scan-tf <stage>`."""
    return main([stage, *sys.argv[1:]])


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; overrides may stand before, between and after the options."""
    arguments, rest = parser.parse_known_args(argv)
    if rest and not (hasattr(arguments, "overrides") and all(map(_is_override, rest))):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which run; see `open_run`."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of the experiment")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where results go (default: runs/NAME)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. scan.epochs=20")


def open_run(arguments: argparse.Namespace) -> Run:
    """The run that the arguments name; its own config where no other is given.

    Raises:
        ConfigError: neither is named, or a setting is bad.
    """
    from scan_tf import config as settings
    from scan_tf.pipeline.run_dir import Run

    path, root = arguments.config, arguments.run_dir
    if path is None and root is None:
        raise ConfigError("--config: give a YAML file, or --run-dir of an existing run.")
    if path is None:
        return Run.open(root, arguments.overrides)
    config = settings.load(path, arguments.overrides)
    return Run(config, root or Path("runs") / config.name)


def _sort_seeds(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Tell the seeds after --seeds from overrides that follow them."""
    arguments.overrides += [text for text in arguments.seeds if _is_override(text)]
    seeds = [text for text in arguments.seeds if not _is_override(text)]
    if not seeds or not all(text.isdecimal() for text in seeds):
        parser.error(f"--seeds: expected whole numbers, got '{' '.join(seeds)}'")
    arguments.seeds = [int(text) for text in seeds]


def _is_override(text: str) -> bool:
    return "=" in text and not text.startswith("-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scan-tf", description="Learn to classify images without labels (SCAN)."
    )
    parser.add_argument("--version", action="version", version=f"scan-tf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    texts = {_ALL: "all stages, from images to the exported classifier"}
    for name, text in (texts | {s.name: s.help for s in STAGES.values()}).items():
        stage = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        add_run_arguments(stage)
        stage.add_argument(
            "--redo",
            metavar="STAGE",
            choices=list(STAGES),
            help="first delete the results of this stage and of those after it",
        )
        if name in (_ALL, *TRAINED):
            stage.add_argument(
                "--profile",
                action="store_true",
                help="write a profile of a few training steps, for TensorBoard",
            )
        stage.set_defaults(function=_run_stages)
    commands.choices["evaluate"].add_argument(
        "--split", metavar="NAME", help="score another split than evaluate.split, beside it"
    )
    commands.choices["export"].add_argument(
        "--format",
        choices=["savedmodel", "torch"],
        default="savedmodel",
        help="torch: state dicts for the official code, in RUN_DIR/export-torch",
    )
    commands.choices["evaluate"].add_argument(
        "--seeds", nargs="+", metavar="N", help="repeat the clustering: mean and deviation"
    )
    _add_sweep(commands)
    _add_import_torch(commands)
    _add_predict(commands)
    _add_prepare(commands)
    return parser


def _add_sweep(commands: Any) -> None:
    text = "cluster with each of several values of settings, on one pretext"
    sweep = commands.add_parser(
        "sweep",
        help=text,
        description=f"{text.capitalize()}. Example: scan-tf sweep --run-dir runs/cifar10 "
        "scan.entropy_weight=1,2,5 scan.epochs=10 --seeds 0 1 2",
    )
    add_run_arguments(sweep)
    sweep.add_argument("--seeds", nargs="+", metavar="N", help="of the clustering; each point's")
    sweep.add_argument("--name", help="of the folder in RUN_DIR/sweeps (default: the settings)")
    sweep.add_argument("--no-selflabel", action="store_true", help="score SCAN alone")
    sweep.set_defaults(function=_sweep)


def _add_import_torch(commands: Any) -> None:
    text = "start from a PyTorch checkpoint of the official code or of MoCo"
    port = commands.add_parser("import-torch", help=text, description=f"S{text[1:]}.")
    port.add_argument("file", type=Path, metavar="FILE", help="such as simclr_cifar-10.pth.tar")
    add_run_arguments(port)
    port.add_argument(
        "--stage",
        choices=TRAINED,
        help="which stage it is the result of (default: as the file tells)",
    )
    port.add_argument(
        "--head", type=int, metavar="N", help="which cluster head, from 0, if the file has several"
    )
    port.add_argument(
        "--redo", action="store_true", help="replace the stage, and delete those after it"
    )
    port.set_defaults(function=_import_torch)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="cluster new images into a CSV file")
    predict.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="images or folders of them")
    predict.add_argument("--output", type=Path, default=Path("preds.csv"), metavar="FILE")
    predict.add_argument("--batch-size", type=int, default=256, metavar="N")
    predict.add_argument("--strict", action="store_true", help="refuse unreadable images")
    predict.set_defaults(function=_predict)


def _add_prepare(commands: Any) -> None:
    prepare = commands.add_parser(
        "prepare", help="make a data set of tensorflow-datasets from a folder, without network"
    )
    prepare.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    prepare.add_argument("--as", dest="name", required=True, metavar="NAME", help="e.g. cifar10")
    prepare.add_argument("--data-dir", type=Path, metavar="DIR")
    prepare.set_defaults(function=_prepare)


def _run_stages(arguments: argparse.Namespace) -> None:
    if getattr(arguments, "seeds", None):
        _repeat(arguments)
        return
    from scan_tf.pipeline import stages

    if getattr(arguments, "profile", False):
        arguments.overrides.append("runtime.profile=true")
    run = open_run(arguments)
    if arguments.redo:
        run.redo(arguments.redo)
    if getattr(arguments, "split", None):
        stages.evaluate_split(run, arguments.split)
        return
    if getattr(arguments, "format", None) == "torch":
        from scan_tf.pipeline import porting

        print(f"PyTorch checkpoints: {porting.export_torch(run)}")
        return
    if arguments.command == _ALL:
        stages.run_all(run)
    else:
        stages.run_stage(run, arguments.command)
    if arguments.command in (_ALL, "evaluate"):
        print(f"\nreport and pictures: {run.folder('evaluate')}")
    if arguments.command in (_ALL, "export"):
        print(f"SavedModel: {run.folder('export')}")


def _sweep(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import sweep, variants

    arguments.overrides, fixed, axes = variants.parse(arguments.overrides)
    how = {"seeds": arguments.seeds, "name": arguments.name}
    sweep.run(open_run(arguments), axes, fixed, selflabel=not arguments.no_selflabel, **how)


def _repeat(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import sweep, variants

    if arguments.redo or arguments.split:
        raise ConfigError("--seeds: goes without --redo and --split. Try evaluate.split=train.")
    arguments.overrides, fixed, axes = variants.parse(arguments.overrides)
    if axes:
        raise ConfigError(f"{[*axes][0]}: has several values; those are for scan-tf sweep.")
    sweep.repeat(open_run(arguments), arguments.seeds, fixed)


def _import_torch(arguments: argparse.Namespace) -> None:
    from scan_tf.pipeline import porting

    run = open_run(arguments)
    stage = porting.import_checkpoint(
        run, arguments.file, stage=arguments.stage, head=arguments.head, redo=arguments.redo
    )
    print(f"imported as the stage '{stage}': {run.folder(stage)}")


def _predict(arguments: argparse.Namespace) -> None:
    from scan_tf.pipeline.prediction import predict

    predict(
        arguments.run_dir,
        arguments.paths,
        arguments.output,
        batch_size=arguments.batch_size,
        strict=arguments.strict,
    )
    print(f"predictions: {arguments.output}")


def _prepare(arguments: argparse.Namespace) -> None:
    from scan_tf.data.prepare import prepare

    print(f"prepared: {prepare(arguments.source, arguments.name, arguments.data_dir)}")


def _terminate(number: int, _: object) -> None:
    raise Interrupted(number, f"terminated. {_GO_ON}")


if __name__ == "__main__":
    sys.exit(main())
