"""The commands that hand results over: names, predictions, sorted folders, tables of features."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scan_tf.cli.arguments import add_command, check_run_folder
from scan_tf.errors import ConfigError, MissingDataError

if TYPE_CHECKING:
    from scan_tf.handover.sorting import Plan
    from scan_tf.pipeline.run_dir import Run

# Folders that a preview lists, and files that a message names.
_SHOWN = 40
_FEW = 5


def add(commands: Any) -> None:
    """Add the commands."""
    _add_name(commands)
    _add_predict(commands)
    _add_sort(commands)
    _add_embeddings(commands)


def _add_name(commands: Any) -> None:
    text = "give clusters names, in the report, the tables and the exported classifier"
    name = add_command(
        commands,
        "name",
        text,
        "Example: scan-tf name runs/mine 3=cat 5=dog. Without names: "
        "list them, and bring in what was changed in RUN/names.yaml.",
    )
    name.add_argument("run_dir", type=Path, metavar="RUN")
    name.add_argument("names", nargs="*", metavar="CLUSTER=NAME", help="3= takes a name away")
    name.set_defaults(function=_name)


def _add_predict(commands: Any) -> None:
    text = "put new images into the clusters: a table with a row for each"
    predict = add_command(commands, "predict", text)
    predict.add_argument("run_dir", type=Path, metavar="RUN", help="or an exported SavedModel")
    predict.add_argument(
        "paths", nargs="+", metavar="PATH", help="images, folders of them, patterns such as '*.jpg'"
    )
    predict.add_argument(
        "--output",
        type=Path,
        default=Path("preds.csv"),
        metavar="FILE",
        help=".csv, .jsonl or .parquet (default: preds.csv)",
    )
    predict.add_argument(
        "--abstain",
        type=_confidence,
        metavar="X|auto",
        help="mark images as unsure below this confidence, 0 to 1 (default: auto, what the "
        "evaluation found)",
    )
    predict.add_argument("--batch-size", type=int, default=256, metavar="N")
    predict.add_argument("--strict", action="store_true", help="refuse unreadable images")
    predict.set_defaults(function=_predict)


def _add_sort(commands: Any) -> None:
    text = "copy or link the images of a run into folders named by their clusters"
    sort = add_command(
        commands,
        "sort",
        text,
        "The originals stay as they are, nothing is overwritten, and "
        "DIR/sort-undo.jsonl takes everything back: scan-tf sort --undo DIR/sort-undo.jsonl",
    )
    sort.add_argument("run_dir", type=Path, nargs="?", metavar="RUN")
    sort.add_argument("--to", type=Path, metavar="DIR", help="the folder of the folders")
    how = sort.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="show what would be made, and stop")
    how.add_argument("--copy", action="store_true", help="make copies (the default)")
    how.add_argument(
        "--link",
        nargs="?",
        const="symbolic",
        choices=["symbolic", "hard"],
        help="make links in place of copies (default: symbolic)",
    )
    sort.add_argument("--undo", type=Path, metavar="FILE", help="take a sort back, by its file")
    sort.add_argument(
        "--abstain",
        type=_confidence,
        default=0.0,
        metavar="X|auto",
        help="put images less sure than this into the folder 'none of these' (default: 0, none)",
    )
    sort.add_argument("--images", type=Path, metavar="FOLDER", help="where the images are now")
    sort.add_argument("--split", metavar="NAME", help="sort that split, after evaluate --split")
    sort.set_defaults(function=_sort)


def _add_embeddings(commands: Any) -> None:
    text = "write the images of a run with cluster, confidence, features and map, for other tools"
    embeddings = add_command(commands, "embeddings", text)
    embeddings.add_argument("run_dir", type=Path, metavar="RUN")
    embeddings.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help=".parquet (fiftyone, Spotlight, embedding-atlas), .csv, .jsonl or .npz",
    )
    embeddings.add_argument("--split", metavar="NAME", help="that split, after evaluate --split")
    embeddings.set_defaults(function=_embeddings)


def _confidence(text: str) -> float | None:
    """A threshold; None for `auto`."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected auto or a number from 0 to 1, got '{text}'")
    return value


def _name(arguments: argparse.Namespace) -> None:
    run = _opened(arguments.run_dir)
    from scan_tf import lazy
    from scan_tf.evaluation import assignments
    from scan_tf.pipeline import embeddings, names

    folder = embeddings.folder_of(run, None)
    count = embeddings.load(folder).probs.shape[1]
    changes = names.parse(arguments.names, count)
    lazy.load_tensorflow()
    from scan_tf.pipeline import renaming

    print("writing the names into the report, the tables and the exported classifier ...")
    given = renaming.rename(run, changes)
    sizes = collections.Counter(row.cluster for row in assignments.read(folder / assignments.FILE))
    print("cluster   images  name")
    for cluster in range(count):
        print(f"{cluster:7} {sizes[cluster]:8,}  {given.get(cluster, '-')}")


def _predict(arguments: argparse.Namespace) -> None:
    from scan_tf import lazy
    from scan_tf.data.listing import list_images
    from scan_tf.handover import row_files

    check_run_folder(arguments.run_dir)
    row_files.check(arguments.output)
    list_images(arguments.paths)
    lazy.load_tensorflow()
    from scan_tf.pipeline.prediction import predict

    predict(
        arguments.run_dir,
        arguments.paths,
        arguments.output,
        batch_size=arguments.batch_size,
        strict=arguments.strict,
        abstain=arguments.abstain,
    )
    print(f"predictions: {arguments.output}")


def _sort(arguments: argparse.Namespace) -> None:
    if arguments.undo is not None:
        if arguments.run_dir is not None or arguments.to is not None:
            raise ConfigError("--undo: goes alone, without RUN and --to.")
        _undo(arguments.undo)
        return
    if arguments.run_dir is None or arguments.to is None:
        raise ConfigError("sort: give RUN and --to DIR, or --undo FILE.")
    from scan_tf.handover import sorting

    plan = _plan(arguments)
    _preview(plan)
    if arguments.dry_run:
        print(f"nothing was made in {plan.target}; without --dry-run it is")
        return
    made = sorting.sort(plan, arguments.link or "copy")
    what = f"{arguments.link} links" if arguments.link else "copies"
    print(f"{made:,} {what} made in {plan.target}")
    print(f"to take them back: scan-tf sort --undo {plan.target / 'sort-undo.jsonl'}")


def _plan(arguments: argparse.Namespace) -> Plan:
    run = _opened(arguments.run_dir)
    from scan_tf.evaluation import assignments
    from scan_tf.handover import sorting
    from scan_tf.pipeline import doubt, embeddings

    folder = embeddings.folder_of(run, arguments.split)
    rows, found = assignments.read(folder / assignments.FILE), embeddings.load(folder)
    if not found.are_files:
        raise ConfigError(f"{run.root}: its images are no files of a folder; nothing to sort.")
    below = arguments.abstain
    if below is None:
        known = doubt.load(run)
        if known is None:
            raise ConfigError(f"--abstain auto: {folder} says nothing of it. Give a number.")
        below = known.below
        print(f"none of these: below a confidence of {below:.3f} ({known.how})")
    root = arguments.images or Path(run.config.data.path or "")
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder of images. Where is it? --images FOLDER.")
    count = found.probs.shape[1]
    return sorting.plan(rows, root, arguments.to, num_clusters=count, below=below)


def _preview(plan: Plan) -> None:
    """What a sort makes, as a table."""
    folders = list(plan.folders.items())
    width = max(len(name) for name, _ in folders)
    for name, count in folders[:_SHOWN]:
        example = next(place for _, place in plan.moves if place.startswith(f"{name}/"))
        print(f"{_shown(name):{width}}  {count:6,} images, such as {_shown(example)}")
    if len(folders) > _SHOWN:
        print(f"and {len(folders) - _SHOWN} more folders")
    if plan.missing:
        print(f"{len(plan.missing):,} images are gone or were moved since, and are left out:")
        for path in plan.missing[:_FEW]:
            print(f"  {_shown(str(path))}")


def _shown(text: str) -> str:
    """A name of a file in whatever encoding, for a terminal."""
    return text.encode("utf-8", "backslashreplace").decode()


def _undo(path: Path) -> None:
    from scan_tf.handover import sorting

    done = sorting.undo(path)
    print(f"{done.removed:,} files taken back")
    for place, why in done.kept[:_FEW]:
        print(f"  kept: {_shown(str(place))} {why}")
    if len(done.kept) > _FEW:
        print(f"  and {len(done.kept) - _FEW:,} more were kept; {path} still tells of them")


def _embeddings(arguments: argparse.Namespace) -> None:
    from scan_tf.handover import row_files

    row_files.check(arguments.to)
    run = _opened(arguments.run_dir)
    from scan_tf.pipeline import embeddings

    rows = embeddings.write(run, embeddings.folder_of(run, arguments.split), arguments.to)
    print(f"{rows:,} images: {arguments.to}")


def _opened(root: Path) -> Run:
    from scan_tf.pipeline.run_dir import Run

    check_run_folder(root)
    return Run.open(root)
