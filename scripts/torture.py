"""Kill tiny runs at random moments, damage them and fill their disk: nothing may be lost or wrong.

Kills come at seeded random moments over all stages; the same command goes on until the run is done,
and then its weights, neighbours, metrics and report have to be those of a run that was never
stopped, bit for bit. Each case has state of another kind: queues, memories, moving averages. The
case `compiled` is run as users do; the others load TensorFlow once and compile no steps, so that
more kills are made in the same time.

With `--faults` there is also a flipped bit in every file, a full disk, a disk that cannot be
written to, a second writer, and a clock that was set back; with `--commands` every other command
that writes is stopped, and given again.

Cases, faults and commands are parts that are tried side by side, one on each core. What was tried
is added up in a file, so that a long torture can be done in pieces:

    python scripts/torture.py --kills 100 --faults --commands
    python scripts/torture.py --kills 1000 --seed 1 --minutes 5 --results torture.jsonl
    python scripts/torture.py --kills 0 --faults --cases simclr --results torture.jsonl
    python scripts/torture.py --table torture.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torture_cases
import torture_commands
import torture_faults
from torture_runs import OutOfTime, Torture
from torture_table import table

# Commands that are a part.
_TOGETHER = 5
# Kills of programs that compile their steps, for each of a case that does not.
_COMPILED_SHARE = 2


@dataclasses.dataclass(frozen=True)
class Part:
    """What one process tries: kills of a case, or a fault, or commands."""

    case: str
    kills: int = 0
    fault: str | None = None
    commands: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where nothing was lost or wrong, else 1."""
    arguments = _parser().parse_args(argv)
    if arguments.table is not None:
        print(table(arguments.table))
        return 0
    start = time.monotonic()
    with _folder(arguments.folder) as folder:
        results = (arguments.results or folder / "results.jsonl").absolute()
        if arguments.part is not None:
            return _try(Part(**json.loads(arguments.part)), folder, results, arguments)
        if arguments.results is None:
            results.unlink(missing_ok=True)
        torture_cases.images(folder / "images")

        def tried(part: Part) -> int:
            minutes = arguments.minutes and arguments.minutes - (time.monotonic() - start) / 60
            return _in_process(part, folder, results, arguments, minutes)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            codes = [*pool.map(tried, parts(arguments))]
        if results.exists():
            print(f"{table(results)}\n\n{(time.monotonic() - start) / 60:.1f} minutes")
    return int(any(codes))


def parts(arguments: argparse.Namespace) -> list[Part]:
    """What is to be tried; what takes longest comes first."""
    cases: list[str] = arguments.cases
    shares = [_COMPILED_SHARE if case == torture_cases.COMPILED else 1 for case in cases]
    ends = [arguments.kills * sum(shares[: n + 1]) // sum(shares) for n in range(len(cases))]
    killed = [
        Part(case, kills=end - start)
        for case, start, end in zip(cases, [0, *ends], ends, strict=False)
        if end > start
    ]
    killed.sort(key=lambda part: part.case != torture_cases.COMPILED)
    faults = _chosen(arguments.faults, torture_faults.FAULTS)
    names = _chosen(arguments.commands, torture_commands.COMMANDS)
    groups = [tuple(names[n : n + _TOGETHER]) for n in range(0, len(names), _TOGETHER)]
    return [
        *(Part(cases[0], fault=name) for name in faults),
        *killed,
        *(Part(cases[0], commands=group) for group in groups),
    ]


def _chosen(names: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """What an option names: nothing without it, and all where it names nothing."""
    return [] if names is None else [*(names or known)]


def _in_process(
    part: Part, folder: Path, results: Path, arguments: argparse.Namespace, minutes: float | None
) -> int:
    """Try a part in a process of its own, of which copies become programs; its exit code."""
    options = ["--seed", arguments.seed, "--epochs", arguments.epochs, "--folder", folder]
    options += ["--results", results, "--part", json.dumps(dataclasses.asdict(part))]
    if minutes is not None:
        options += ["--minutes", minutes]
    return subprocess.run([sys.executable, __file__, *map(str, options)]).returncode


def _try(part: Part, folder: Path, results: Path, arguments: argparse.Namespace) -> int:
    """Try a part; 0 where nothing was lost or wrong, else 1."""
    start, quick = time.monotonic(), part.case != torture_cases.COMPILED
    torture = Torture(
        folder, arguments.seed, arguments.epochs, minutes=arguments.minutes, quick=quick
    )
    try:
        if part.kills:
            torture.kills(part.case, part.kills)
        if part.fault is not None:
            torture_faults.FAULTS[part.fault](torture, part.case)
        if part.commands:
            torture_commands.kill(torture, part.case, part.commands)
    except OutOfTime:
        print(f"the time is over: {part}", flush=True)
    finally:
        torture.worker.close()
        torture.tell(results)
    print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
    return int(bool(torture.wrong))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = torture_cases.CASES
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and signals")
    parser.add_argument("--epochs", type=int, default=2, help="of each stage (default: 2)")
    parser.add_argument("--cases", nargs="+", choices=cases, default=[*cases], metavar="NAME")
    parser.add_argument("--faults", nargs="*", choices=torture_faults.FAULTS, metavar="NAME")
    parser.add_argument("--commands", nargs="*", choices=torture_commands.COMMANDS, metavar="NAME")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin nothing new after these")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, metavar="N", help="(default: cores)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines, added to")
    parser.add_argument("--folder", type=Path, help="keeps the runs without faults for the next")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print what was tried, and end")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser


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
