"""The command that shows a finished run in the browser, to be corrected there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scan_tf.cli.arguments import add_command, check_run_folder

if TYPE_CHECKING:
    from scan_tf.pipeline.run_dir import Run


def add(commands: Any) -> None:
    """Add the command."""
    text = "look at the clusters of a run in the browser: name, merge, split, move, teach"
    explore = add_command(
        commands,
        "explore",
        text,
        "It prints an address of this machine with a token, without which nothing is answered. "
        "Every correction is saved at once in RUN/explore/journal.jsonl; Ctrl-C ends it.",
    )
    explore.add_argument("run_dir", type=Path, metavar="RUN", help="a run that was evaluated")
    explore.add_argument(
        "--port", type=_port, default=0, metavar="N", help="the port (default: a free one)"
    )
    explore.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="listen there (default: 127.0.0.1, which other machines cannot reach)",
    )
    explore.add_argument("--no-browser", action="store_true", help="only print the address")
    explore.add_argument(
        "--discard",
        action="store_true",
        help="take back the corrected classifier that was accepted, and stop; the corrections stay",
    )
    explore.set_defaults(function=_explore)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, got '{text}'")
    return int(text)


def _explore(arguments: argparse.Namespace) -> None:
    check_run_folder(arguments.run_dir)
    from scan_tf.pipeline.run_dir import Run

    run = Run.open(arguments.run_dir)
    if arguments.discard:
        _discard(run)
        return
    from scan_tf.explorer import serving

    how = {"host": arguments.host, "port": arguments.port, "browser": not arguments.no_browser}
    serving.serve(run, **how)


def _discard(run: Run) -> None:
    from contextlib import closing

    from scan_tf.explorer.session import Session

    with closing(Session(run)) as session:
        session.discard(session.journal.seq)
    print(f"{run.root}: shows the clusters that it found itself again; the corrections are kept")
