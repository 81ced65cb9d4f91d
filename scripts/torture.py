"""Kill tiny runs at random moments, damage them and fill their disk: nothing may be lost or wrong.

Kills come at seeded random moments over all stages; the same command goes on until the run is done,
and then its weights, neighbours, metrics and report have to be those of a run that was never
stopped, bit for bit. Each case has state of another kind: queues, memories, moving averages.

With `--faults` there is also a flipped bit in every file, a full disk, a disk that cannot be
written to, a second writer, and a clock that was set back; with `--commands` every other command
that writes is killed, and given again.

What was tried is added up in a file, so that a long torture can be done in parts:

    python scripts/torture.py --kills 100 --seed 0
    python scripts/torture.py --kills 1000 --seed 1 --minutes 5 --results torture.jsonl
    python scripts/torture.py --kills 0 --faults --cases simclr --results torture.jsonl
    python scripts/torture.py --table torture.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torture_commands
import torture_faults
from torture_runs import CASES, OutOfTime, Torture
from torture_table import table


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where nothing was lost or wrong, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and signals")
    parser.add_argument("--epochs", type=int, default=8, help="of each stage (default: 8)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], metavar="NAME")
    parser.add_argument("--faults", nargs="*", choices=torture_faults.FAULTS, metavar="NAME")
    parser.add_argument("--commands", nargs="*", choices=torture_commands.COMMANDS, metavar="NAME")
    parser.add_argument(
        "--quick", action="store_true", help="load TensorFlow once, and compile no steps"
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="begin nothing new after these")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines, added to")
    parser.add_argument("--folder", type=Path, help="keeps the runs without faults for the next")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print what was tried, and end")
    arguments = parser.parse_args(argv)
    if arguments.table is not None:
        print(table(arguments.table))
        return 0
    with _folder(arguments.folder) as folder:
        torture = Torture(
            folder,
            arguments.seed,
            arguments.epochs,
            minutes=arguments.minutes,
            quick=arguments.quick,
        )
        try:
            _run(torture, arguments)
        except OutOfTime:
            print("the time is over", flush=True)
        finally:
            torture.worker.close()
        torture.tell(arguments.results)
    return int(bool(torture.wrong))


def _run(torture: Torture, arguments: argparse.Namespace) -> None:
    cases = arguments.cases
    for number, case in enumerate(cases):
        share = (arguments.kills + len(cases) - 1 - number) // len(cases)
        if share:
            torture.kills(case, share)
    if arguments.faults is not None:
        for name in arguments.faults or torture_faults.FAULTS:
            torture_faults.FAULTS[name](torture, cases[0])
    if arguments.commands is not None:
        torture_commands.kill(torture, cases[0], arguments.commands or [*torture_commands.COMMANDS])


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.absolute()
    else:
        with tempfile.TemporaryDirectory(prefix="scan_tf-torture-") as folder:
            yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
