"""The tables of results in README.md and docs/results.md, made of the folder `results/`.

A result is added by `scan-tf publish`; `scan-tf weights` writes a classifier as a small file.

Example:
    scan-tf publish runs/cifar10 --name cifar10 --data-note "CIFAR-10, JPEG q75 copy"
    python scripts/results.py table
    python scripts/results.py table --check
"""

import argparse
import sys
from pathlib import Path

from scan_tf.errors import ScanError

ROOT = Path(__file__).parents[1]
README, NOTES = ROOT / "README.md", ROOT / "docs" / "results.md"


def main() -> int:
    """Run the program; returns 0, or the exit code of an error as `scan-tf` does."""
    arguments = _parser().parse_args()
    import result_table

    try:
        for text in [arguments.readme] if arguments.readme else [README, NOTES]:
            if arguments.check:
                result_table.check(text, arguments.results)
            elif result_table.update(text, arguments.results):
                print(f"rewritten: {text}")
    except (ScanError, OSError) as error:
        print(f"results: {error}", file=sys.stderr)
        return getattr(error, "exit_code", ScanError.exit_code)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    table = commands.add_parser("table", help="rewrite the tables")
    table.add_argument("--check", action="store_true", help="fail if they are out of date")
    table.add_argument("--readme", type=Path, metavar="FILE", help="another text with a table")
    table.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
