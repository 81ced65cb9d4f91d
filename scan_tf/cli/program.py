"""From the arguments of the process to a command, and from its errors to an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from scan_tf import __version__
from scan_tf.cli import arguments as shared
from scan_tf.cli import carry, look, stages
from scan_tf.errors import Interrupted, ScanError

_GO_ON = "Run the same command, without --redo, to go on."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments; None: those of the process.

    Returns:
        0 done, 2 bad input or config, 3 data missing, 75 to be continued by the same command, 130
        or 143 interrupted and resumable.
    """
    parser = _parser()
    arguments = shared.parse(parser, argv)
    if getattr(arguments, "seeds", None) is not None:
        _sort_seeds(parser, arguments)
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return arguments.function(arguments) or 0
    except ScanError as error:
        print(f"scan-tf: {error}", file=sys.stderr)
        if isinstance(error, Interrupted) and arguments.command == "run":
            print("Or end this stage with what it has learnt: add --finish.", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # what reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"scan-tf: {error}", file=sys.stderr)
        return ScanError.exit_code
    except KeyboardInterrupt:
        print(f"scan-tf: interrupted. {_GO_ON}", file=sys.stderr)
        return 130


def stage_main(stage: str) -> int:
    """The program of `scripts/<stage>.py`: the arguments of `scan-tf <stage>`."""
    return main([stage, *sys.argv[1:]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scan-tf", description="Learn to classify images without labels (SCAN)."
    )
    parser.add_argument("--version", action="version", version=f"scan-tf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stages.add(commands)
    look.add(commands)
    carry.add(commands)
    return parser


def _sort_seeds(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Tell the seeds after --seeds from overrides that follow them."""
    arguments.overrides += [text for text in arguments.seeds if shared.is_override(text)]
    seeds = [text for text in arguments.seeds if not shared.is_override(text)]
    if not seeds or not all(text.isdecimal() for text in seeds):
        parser.error(f"--seeds: expected whole numbers, got '{' '.join(seeds)}'")
    arguments.seeds = [int(text) for text in seeds]


def _terminate(number: int, _: object) -> None:
    raise Interrupted(number, f"terminated. {_GO_ON}")
