"""The commands that make something of images: the stages, sweeps, imports."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scan_tf.cli import folder_run
from scan_tf.cli.arguments import add_command, add_run_arguments, open_run
from scan_tf.cli.folder_run import MINUTES
from scan_tf.errors import TO_BE_CONTINUED, ConfigError, MissingDataError
from scan_tf.pipeline.stage import SHARED, STAGES, TRAINED

if TYPE_CHECKING:
    from scan_tf.pipeline.run_dir import Run

_ALL = "run"


def add(commands: Any) -> None:
    """Add the commands."""
    texts = {_ALL: "all stages, from images to the exported classifier"}
    for name, text in (texts | {s.name: s.help for s in STAGES.values()}).items():
        stage = add_command(commands, name, text)
        add_run_arguments(stage)
        stage.add_argument(
            "--redo",
            metavar="STAGE",
            choices=list(STAGES),
            help="first delete the results of this stage and of those after it",
        )
        if name in (_ALL, *TRAINED):
            stage.add_argument(
                "--extend",
                action="store_true",
                help="let the stage go on whose epochs, optimizer.lr or optimizer.clip_norm differ "
                "from those that it was begun with; the stages after it are made anew",
            )
            stage.add_argument(
                "--profile",
                action="store_true",
                help="write a profile of a few training steps, for TensorBoard",
            )
        stage.set_defaults(function=_run_stages)
    run = commands.choices[_ALL]
    run.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="fit the epochs of all stages to so many minutes on this machine (default: the epochs "
        f"of the config; of a FOLDER without one, in at most {MINUTES:g} minutes)",
    )
    run.add_argument(
        "--finish",
        action="store_true",
        help="end the stage that was interrupted with what it has learnt so far, and go on",
    )
    run.add_argument(
        "--stop-after",
        type=float,
        metavar="MINUTES",
        help="stop with everything saved before so many minutes are over; the same command goes "
        f"on (exit code {TO_BE_CONTINUED})",
    )
    run.add_argument(
        "--margin",
        type=float,
        default=20,
        metavar="SECONDS",
        help="so long before that the stages are told to stop (default: 20)",
    )
    run.add_argument(
        "--seeds", nargs="+", metavar="N", help="then repeat the clustering with these seeds"
    )
    commands.choices["evaluate"].add_argument(
        "--split", metavar="NAME", help="score another split than evaluate.split, beside it"
    )
    commands.choices["export"].add_argument(
        "--format",
        choices=["savedmodel", "torch", "litert", "onnx"],
        default="savedmodel",
        help="torch: state dicts for the official code; litert, onnx: the classifier for images of "
        "its own size; each in RUN_DIR/export-FORMAT",
    )
    commands.choices["export"].add_argument(
        "--serving",
        type=Path,
        metavar="DIR",
        help="add the SavedModel to DIR too, as a version for TensorFlow Serving",
    )
    commands.choices["evaluate"].add_argument(
        "--seeds", nargs="+", metavar="N", help="repeat the clustering: mean and deviation"
    )
    _add_sweep(commands)
    _add_import_torch(commands)
    _add_prepare(commands)


def _add_sweep(commands: Any) -> None:
    text = "cluster with each of several values of settings, on one pretext"
    sweep = add_command(
        commands,
        "sweep",
        text,
        "Example: scan-tf sweep --run-dir runs/cifar10 "
        "scan.entropy_weight=1,2,5 scan.epochs=10 --seeds 0 1 2",
    )
    add_run_arguments(sweep)
    sweep.add_argument("--seeds", nargs="+", metavar="N", help="of the clustering; each point's")
    sweep.add_argument("--name", help="of the folder in RUN_DIR/sweeps (default: the settings)")
    sweep.add_argument("--no-selflabel", action="store_true", help="score SCAN alone")
    sweep.set_defaults(function=_sweep)


def _add_import_torch(commands: Any) -> None:
    text = "start from a PyTorch checkpoint of the official code or of MoCo"
    port = add_command(commands, "import-torch", text)
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


def _add_prepare(commands: Any) -> None:
    prepare = commands.add_parser(
        "prepare", help="make a data set of tensorflow-datasets from a folder, without network"
    )
    prepare.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    prepare.add_argument("--as", dest="name", required=True, metavar="NAME", help="e.g. cifar10")
    prepare.add_argument("--data-dir", type=Path, metavar="DIR")
    prepare.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that cannot be read"
    )
    prepare.set_defaults(function=_prepare)


def _run_stages(arguments: argparse.Namespace) -> int:
    if arguments.command == "evaluate" and arguments.seeds:
        return _repeat(arguments)
    start = time.monotonic()
    if getattr(arguments, "profile", False):
        arguments.overrides.append("runtime.profile=true")
    from scan_tf.pipeline import formats

    formats.check(getattr(arguments, "format", ""))
    run = open_run(arguments, reads_images=arguments.command != "export")
    from scan_tf.pipeline import helping, stages

    if helping.helps(run):
        _help(run, arguments)
        return 0
    if arguments.redo:
        run.redo(arguments.redo)
    if getattr(arguments, "extend", False):
        from scan_tf.pipeline.extend import extend

        extend(run)
    if getattr(arguments, "split", None):
        stages.evaluate_split(run, arguments.split)
        return 0
    if getattr(arguments, "format", None) == "torch":
        from scan_tf.pipeline import porting

        print(f"PyTorch checkpoints: {porting.export_torch(run)}")
        return 0
    if arguments.command == _ALL:
        if not _run_all(run, arguments, start):
            print(f"to be continued by the same command: {run.root}")
            return TO_BE_CONTINUED
    else:
        stages.run_stage(run, arguments.command)
    if arguments.command in (_ALL, "evaluate"):
        print(f"\nreport and pictures: {run.folder('evaluate')}")
    if arguments.command in (_ALL, "export"):
        print(f"SavedModel: {run.folder('export')}")
    if arguments.command == _ALL:
        folder_run.say_what_next(run)
    if arguments.command == "export":
        _hand_over(run, arguments)
    return 0


def _help(run: Run, arguments: argparse.Namespace) -> None:
    """Work along with the process that writes the run."""
    from scan_tf.pipeline import helping, sizes

    whole = arguments.command == _ALL
    if whole and arguments.config is not None:
        given = {text.partition("=")[0] for text in arguments.overrides}
        run.config, _ = sizes.fitted(run.config, len(run.train_images), given=given)
    helping.work_along(run, SHARED if whole else [arguments.command])


def _hand_over(run: Run, arguments: argparse.Namespace) -> None:
    """The SavedModel in other forms too."""
    from scan_tf.pipeline import export, formats

    if arguments.format != "savedmodel":
        print(f"{arguments.format}: {export.convert(run, arguments.format)}")
    if arguments.serving is not None:
        print(f"for TensorFlow Serving: {formats.serve(run.folder('export'), arguments.serving)}")


def _run_all(run: Run, arguments: argparse.Namespace, start: float) -> bool:
    """All stages, within a time limit where one is given; whether they are done."""
    from scan_tf.pipeline import stages, timing

    given = {text.partition("=")[0] for text in arguments.overrides}
    chosen = getattr(arguments, "chosen", None)
    said: list[str] = []
    if arguments.config is not None:  # that of a run directory has been fitted
        said = folder_run.fit_to_images(run, chosen, given, arguments.minutes)
    stages.begin(run)
    print(*said, sep="\n", end="\n" if said else "")
    if arguments.minutes is not None:
        timing.fit(run, 60 * arguments.minutes, start)
    elif chosen is not None and not any(key.endswith(".epochs") for key in given):
        timing.fit(run, 60 * MINUTES, start, asked=False)
    if arguments.finish:
        timing.finish(run)
    if arguments.stop_after is None and not arguments.seeds:
        stages.run_all(run)
        return True
    from scan_tf.experiments import sessions, sweep

    if arguments.stop_after is None:
        stages.run_all(run)
        sweep.repeat(run, arguments.seeds)
        return True
    return sessions.run(
        run,
        budget_s=60 * arguments.stop_after,
        margin_s=arguments.margin,
        seeds=arguments.seeds or (),
        start=start,
    )


def _sweep(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import variants

    arguments.overrides, fixed, axes = variants.parse(arguments.overrides)
    how = {"seeds": arguments.seeds, "name": arguments.name}
    run = open_run(arguments)
    from scan_tf.experiments import sweep

    sweep.run(run, axes, fixed, selflabel=not arguments.no_selflabel, **how)


def _repeat(arguments: argparse.Namespace) -> int:
    from scan_tf.experiments import variants

    if arguments.redo or arguments.split:
        raise ConfigError("--seeds: goes without --redo and --split. Try evaluate.split=train.")
    arguments.overrides, fixed, axes = variants.parse(arguments.overrides)
    if axes:
        raise ConfigError(f"{[*axes][0]}: has several values; those are for scan-tf sweep.")
    run = open_run(arguments)
    from scan_tf.experiments import sweep

    sweep.repeat(run, arguments.seeds, fixed)
    return 0


def _import_torch(arguments: argparse.Namespace) -> None:
    run = open_run(arguments)
    from scan_tf.pipeline import porting

    stage = porting.import_checkpoint(
        run, arguments.file, stage=arguments.stage, head=arguments.head, redo=arguments.redo
    )
    print(f"imported as the stage '{stage}': {run.folder(stage)}")


def _prepare(arguments: argparse.Namespace) -> None:
    from scan_tf import lazy

    if not arguments.source.is_dir():
        raise MissingDataError(f"{arguments.source}: no such folder (--from).")
    lazy.load_tensorflow()
    from scan_tf.data.prepare import prepare

    skip = arguments.skip_unreadable
    made = prepare(arguments.source, arguments.name, arguments.data_dir, skip_unreadable=skip)
    print(f"prepared: {made}")
