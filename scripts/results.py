"""Publish results: a finished run in results/, the README's table of them, and small weights.

Example:
    python scripts/results.py add runs/cifar10 --name cifar10 --data-note "CIFAR-10, JPEG q75 copy"
    python scripts/results.py table
    python scripts/results.py weights runs/cifar10 cifar10.weights.h5
    python scripts/results.py score cifar10.weights.h5 --data-path DIR
"""

import argparse
import os
import sys
from pathlib import Path

from scan_tf import cli
from scan_tf.errors import ScanError

ROOT = Path(__file__).parents[1]
README, NOTES = ROOT / "README.md", ROOT / "docs" / "results.md"


def main() -> int:
    """Run the program; returns 0, or the exit code of an error as `scan-tf` does."""
    arguments = _parser().parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        arguments.function(arguments)
    except (ScanError, OSError) as error:
        print(f"results: {error}", file=sys.stderr)
        return getattr(error, "exit_code", ScanError.exit_code)
    return 0


def _add(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import published_results

    folder = published_results.add(
        arguments.run_dir,
        arguments.results,
        name=arguments.name,
        data_note=arguments.data_note,
        hardware=arguments.hardware,
        commit=arguments.commit,
        note=arguments.note,
    )
    print(f"added: {folder}")


def _table(arguments: argparse.Namespace) -> None:
    import result_table

    for text in [arguments.readme] if arguments.readme else [README, NOTES]:
        if arguments.check:
            result_table.check(text, arguments.results)
        elif result_table.update(text, arguments.results):
            print(f"rewritten: {text}")


def _weights(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import published_weights

    run = argparse.Namespace(config=None, run_dir=arguments.run_dir, overrides=[])
    facts = published_weights.save(cli._open(run), arguments.file)
    size = arguments.file.stat().st_size / 1e6
    print(f"{arguments.file}: {size:.1f} MB, weights of {facts['weights_of']}")


def _score(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import published_weights

    scores = published_weights.score(
        arguments.file, split=arguments.split, data_path=arguments.data_path
    )
    cells = (f"{k.upper()} {100 * scores[k]:.2f}" for k in ("acc", "nmi", "ari"))
    print(f"{scores['num_images']:,} images of the {scores['split']} split: {', '.join(cells)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("add", help="copy what is worth publishing of a finished run")
    add.add_argument("run_dir", type=Path, nargs="+", help="several: equal but for their seeds")
    add.add_argument("--name", required=True, help="of the new folder, after the date")
    add.add_argument("--data-note", metavar="TEXT", help="what the data really is")
    add.add_argument("--hardware", metavar="TEXT", help="(default: as the run recorded it)")
    add.add_argument("--commit", metavar="HASH", help="(default: as the run recorded it)")
    add.add_argument("--note", metavar="TEXT", help="what else a reader has to know")
    add.set_defaults(function=_add)
    table = commands.add_parser("table", help="rewrite the tables in README and docs/results.md")
    table.add_argument("--check", action="store_true", help="fail if it is out of date")
    table.add_argument("--readme", type=Path, metavar="FILE", help="another text with a table")
    table.set_defaults(function=_table)
    for command in (add, table):
        command.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR")
    weights = commands.add_parser("weights", help="write the classifier as a small file")
    weights.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    weights.add_argument("file", type=Path, metavar="NAME.weights.h5")
    weights.set_defaults(function=_weights)
    score = commands.add_parser("score", help="score such a file on its data set")
    score.add_argument("file", type=Path, metavar="NAME.weights.h5")
    score.add_argument("--split", choices=["train", "test"], help="(default: as published)")
    score.add_argument("--data-path", metavar="DIR", help="where the data set is")
    score.set_defaults(function=_score)
    return parser


if __name__ == "__main__":
    sys.exit(main())
