"""From the arguments of the process to a command, and from its errors to an exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from scan_tf import __version__, replicas, signals
from scan_tf.cli import arguments as shared
from scan_tf.cli import explore, hand_over, look, share, stages
from scan_tf.errors import Interrupted, ScanError
from scan_tf.storage.writing import Writing


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments; None: those of the process.

    Returns:
        0 done, 2 bad input or config, 3 data missing, 4 done without self-label, 75 to be continued
        by the same command, 130 or 143 interrupted and resumable, whatever the interruption was
        taken for meanwhile.
    """
    parser = _parser()
    arguments = shared.parse(parser, argv)
    if getattr(arguments, "seeds", None) is not None:
        _sort_seeds(parser, arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A warning is its sentence, whichever library has set up logging before it comes.
    logging.basicConfig(format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be valid UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    with signals.Program() as program, Writing.until_the_end():
        try:
            code = arguments.function(arguments) or 0
            sys.stdout.flush()
        except Interrupted as error:
            code = error.exit_code
            or_finish = "\nOr end this stage with what it has learnt: add --finish."
            _tell(f"{error}{or_finish if arguments.command == 'run' else ''}")
        except BaseException as error:
            if program.exit_code:  # it comes of the interruption
                _tell(f"interrupted. {signals.GO_ON}")
                code = program.exit_code
            else:
                code = _failed(error)
    return program.exit_code or code


def _tell(text: str) -> None:
    """Print a line to stderr, as far as it can be written there."""
    with contextlib.suppress(OSError):
        print(f"scan-tf: {text}", file=sys.stderr)


def _failed(error: BaseException) -> int:
    """Tell an error in a line; the exit code. What is no user's error is raised again."""
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it, or it has no room: what is left of it is dropped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # what reads the output has seen enough
        return 0
    from scan_tf.storage import files  # loads NumPy

    if not isinstance(error, ScanError) and files.lacks_room(error):
        error = files.no_room(error)
    if isinstance(error, (ScanError, OSError)):
        _tell(str(error))
        return getattr(error, "exit_code", ScanError.exit_code)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(error, tensorflow.errors.OpError):
        # A full disk, no memory left on the device: the rest of the message is its graph.
        said = str(error.message).splitlines()[0]
        if replicas.processes.cache_info().currsize:
            said = (
                "a process of this run has ended or cannot be reached, or another error came of "
                f"TensorFlow ({said}). Start the same command again in all processes: it goes on "
                "from the last checkpoint."
            )
        _tell(said)
        return ScanError.exit_code
    if isinstance(error, KeyboardInterrupt):  # outside of the main thread
        _tell(f"interrupted. {signals.GO_ON}")
        return 130
    raise error


def stage_main(stage: str) -> int:
    """The program of `scripts/<stage>.py`: the arguments of `scan-tf <stage>`.

    Args:
        stage: its name, such as "pretext".
    """
    return main([stage, *sys.argv[1:]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scan-tf", description="Learn to classify images without labels (SCAN)."
    )
    parser.add_argument("--version", action="version", version=f"scan-tf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stages.add(commands)
    hand_over.add(commands)
    look.add(commands)
    explore.add(commands)
    share.add(commands)
    return parser


def _sort_seeds(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Tell the seeds after --seeds from overrides that follow them."""
    arguments.overrides += [text for text in arguments.seeds if shared.is_override(text)]
    seeds = [text for text in arguments.seeds if not shared.is_override(text)]
    # Python makes no number of thousands of digits.
    if not seeds or not all(text.isdecimal() and len(text) < 20 for text in seeds):
        parser.error(f"--seeds: expected whole numbers, got '{' '.join(seeds)}'")
    arguments.seeds = [int(text) for text in seeds]
