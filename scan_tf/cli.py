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

if TYPE_CHECKING:
    from scan_tf.pipeline.run_dir import Run

_STAGES = {
    "run": "all stages, from images to the exported classifier",
    "pretext": "learn features without labels",
    "neighbors": "find the nearest neighbours of every image",
    "scan": "train the cluster heads",
    "selflabel": "fine-tune on confident predictions",
    "evaluate": "score, draw, and write eval/report.json",
    "export": "write the SavedModel",
}
_GO_ON = "Run the same command, without --redo, to go on."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments; None: those of the process.

    Returns:
        0 done, 2 bad input or config, 3 data missing, 130 or 143 interrupted and resumable.
    """
    arguments = _parse(argv)
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


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; overrides may stand before, between and after the options."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not (hasattr(arguments, "overrides") and all(_is_override(r) for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    if getattr(arguments, "seeds", None) is not None:
        arguments.overrides += [text for text in arguments.seeds if _is_override(text)]
        seeds = [text for text in arguments.seeds if not _is_override(text)]
        if not seeds or not all(text.isdecimal() for text in seeds):
            parser.error(f"--seeds: expected whole numbers, got '{' '.join(seeds)}'")
        arguments.seeds = [int(text) for text in seeds]
    return arguments


def _is_override(text: str) -> bool:
    return "=" in text and not text.startswith("-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scan-tf", description="Learn to classify images without labels (SCAN)."
    )
    parser.add_argument("--version", action="version", version=f"scan-tf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _STAGES.items():
        stage = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        _add_run(stage)
        stage.add_argument(
            "--redo",
            metavar="STAGE",
            choices=[s for s in _STAGES if s != "run"],
            help="first delete the results of this stage and of those after it",
        )
        if name in ("run", "pretext", "scan", "selflabel"):
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


def _add_run(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which run."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of the experiment")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where results go (default: runs/NAME)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. scan.epochs=20")


def _add_sweep(commands: Any) -> None:
    text = "cluster with each of several values of settings, on one pretext"
    sweep = commands.add_parser(
        "sweep",
        help=text,
        description=f"{text.capitalize()}. Example: scan-tf sweep --run-dir runs/cifar10 "
        "scan.entropy_weight=1,2,5 scan.epochs=10 --seeds 0 1 2",
    )
    _add_run(sweep)
    sweep.add_argument("--seeds", nargs="+", metavar="N", help="of the clustering; each point's")
    sweep.add_argument("--name", help="of the folder in RUN_DIR/sweeps (default: the settings)")
    sweep.add_argument("--no-selflabel", action="store_true", help="score SCAN alone")
    sweep.set_defaults(function=_sweep)


def _add_import_torch(commands: Any) -> None:
    text = "start from a PyTorch checkpoint of the official code or of MoCo"
    port = commands.add_parser("import-torch", help=text, description=f"S{text[1:]}.")
    port.add_argument("file", type=Path, metavar="FILE", help="such as simclr_cifar-10.pth.tar")
    _add_run(port)
    port.add_argument(
        "--stage",
        choices=["pretext", "scan", "selflabel"],
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
    work = _open(arguments)
    if arguments.redo:
        work.redo(arguments.redo)
    if getattr(arguments, "split", None):
        stages.evaluate_split(work, arguments.split)
        return
    if getattr(arguments, "format", None) == "torch":
        from scan_tf.pipeline import porting

        print(f"PyTorch checkpoints: {porting.export_torch(work)}")
        return
    if arguments.command == "run":
        stages.run_all(work)
    else:
        stages.run_stage(work, arguments.command)
    if arguments.command in ("run", "evaluate"):
        print(f"\nreport and pictures: {work.folder('evaluate')}")
    if arguments.command in ("run", "export"):
        print(f"SavedModel: {work.folder('export')}")


def _sweep(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import sweep, variants

    arguments.overrides, fixed, axes = variants.parse(arguments.overrides)
    how = {"seeds": arguments.seeds, "name": arguments.name}
    sweep.run(_open(arguments), axes, fixed, selflabel=not arguments.no_selflabel, **how)


def _repeat(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import sweep, variants

    if arguments.redo or arguments.split:
        raise ConfigError("--seeds: goes without --redo and --split. Try evaluate.split=train.")
    arguments.overrides, fixed, axes = variants.parse(arguments.overrides)
    if axes:
        raise ConfigError(f"{[*axes][0]}: has several values; those are for scan-tf sweep.")
    sweep.repeat(_open(arguments), arguments.seeds, fixed)


def _open(arguments: argparse.Namespace) -> Run:
    """The run that the arguments name; its own config where no other is given."""
    from scan_tf import config
    from scan_tf.pipeline.run_dir import Run

    path, root = arguments.config, arguments.run_dir
    if path is None and root is None:
        raise ConfigError("--config: give a YAML file, or --run-dir of an existing run.")
    if path is None:
        path = root / "config.yaml"
        if not path.exists():
            raise ConfigError(f"{path}: no such file. Give --config, or the directory of a run.")
    settings = config.load(path, arguments.overrides)
    return Run(settings, root or Path("runs") / settings.name)


def _import_torch(arguments: argparse.Namespace) -> None:
    from scan_tf.pipeline import porting

    work = _open(arguments)
    stage = porting.import_checkpoint(
        work, arguments.file, stage=arguments.stage, head=arguments.head, redo=arguments.redo
    )
    print(f"imported as the stage '{stage}': {work.folder(stage)}")


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
