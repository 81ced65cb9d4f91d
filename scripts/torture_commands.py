"""Every other command that writes, stopped at random moments and given again."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from torture_programs import text_of, wait
from torture_runs import SIGNALS, Torture

# A command is stopped at the first trace of what it writes, and then so many seconds later at most.
_SOON_S = 0.5


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        words: `{run}` is a copy of a finished run, `{out}` an empty folder, `{images}` images,
            `{pack}` a pack of the run.
        results: files and folders below `{out}` or `{run}` that it leaves, as patterns.
        exact: whether the results are the same bytes every time.
    """

    words: str
    results: Sequence[str]
    exact: bool = True


COMMANDS = {
    "export": Command("export --redo export --run-dir {run}", ["run/export/**/*"], exact=False),
    "export-torch": Command("export --format torch --run-dir {run}", ["run/export-torch/*"]),
    "evaluate": Command("evaluate --split train --run-dir {run}", ["run/eval*/assignments.csv"]),
    "pack": Command("pack {run} {out}/pack --part-mib 0.05", ["out/pack/*"]),
    "unpack": Command("unpack {pack} {out}/run", ["out/run/**/*"]),
    # The fields of a record come in another order in every process.
    "prepare": Command(
        "prepare --from {images} --as my_photos --data-dir {out}",
        ["out/**/*.tfrecord*"],
        exact=False,
    ),
    "sort": Command("sort {run} --to {out}/sorted --images {images}", ["out/sorted/**/*"]),
    "name": Command("name {run} 0=blue 1=red", ["run/names.yaml"]),
    "predict": Command("predict {run} {images} --output {out}/x.csv", ["out/x.csv"]),
    "weights": Command("weights {run} {out}/x.weights.h5", ["out/*.h5"], exact=False),
    "publish": Command("publish {run} --name x --results {out}", ["out/*/report.json"]),
    "sweep": Command(
        "sweep --run-dir {run} scan.epochs=1,2 --no-selflabel --name x", ["run/sweeps/x/table.md"]
    ),
    "embeddings": Command("embeddings {run} --to {out}/x.npz", ["out/x.npz"], exact=False),
}


def kill(torture: Torture, case: str, names: Sequence[str]) -> None:
    """Stop commands with each signal, give each again, and compare what it leaves."""
    torture.random = random.Random(f"{torture.seed} {names[0]}")  # noqa: S311 - no secret
    place = torture.folder / f"command-{names[0]}-{torture.seed}"
    pack, log = place / "pack", place / "log"
    whole = torture.whole(case)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if torture.start(log, "pack", _fresh(place, whole) / "run", pack).wait():
        raise SystemExit(text_of(log))
    for name in names:
        command = COMMANDS[name]
        torture.go_on()
        base = _fresh(place, whole)
        if torture.worker.run(log, *_words(command, base)):
            torture.check("the command without faults", name, False, text_of(log))
            continue
        expected = _results(command, base)
        for number, kind in enumerate(torture.random.sample(SIGNALS, len(SIGNALS))):
            torture.go_on()
            base = _fresh(place, whole)
            before = _names(base)
            process = torture.start(log, *_words(command, base))
            while process.poll() is None and _names(base) == before:
                time.sleep(0.002)
            wait(process, torture.random.uniform(0, _SOON_S * number))
            ended = process.poll() is not None
            if not ended:
                torture.stop(process, log, kind, f"scan-tf {name}")
            made = _are_same(command, _results(command, base), expected)
            code = torture.worker.run(log, *_words(command, base))
            found = _results(command, base)
            same = _are_same(command, found, expected)
            left = [p for p in _names(base) if re.search(r"\.(tmp|old|sorting)$|incomplete", p)]
            # What was made in time is not replaced: it is there already.
            good = (code == 0 or (made and code == 2)) and same and not left
            what = f"{code}; left over: {left}; {text_of(log)}; {set(found) ^ set(expected)}"
            where = f"{name}, which had ended" if ended else name
            torture.check(f"{kind.name} and the command again", where, good, what)
    shutil.rmtree(place)


def _fresh(place: Path, whole: Path) -> Path:
    """A folder with a copy of a finished run and an empty folder beside it."""
    base = place / "base"
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(whole, base / "run")
    (base / "out").mkdir()
    return base


def _words(command: Command, base: Path) -> list[str]:
    """The command's arguments, with the places."""
    places = {"run": base / "run", "out": base / "out", "pack": base.parent / "pack"}
    places["images"] = base.parent.parent / "images"
    return [word.format(**places) for word in command.words.split()]


def _are_same(command: Command, found: dict[str, str], expected: dict[str, str]) -> bool:
    """Whether a command has left what it leaves without faults, as far as that is known."""
    return found == expected if command.exact else found.keys() == expected.keys()


def _names(base: Path) -> set[str]:
    """What there is, but for the lock."""
    return {str(p) for p in base.rglob("*") if p.name not in (".lock", "__pycache__")}


def _results(command: Command, base: Path) -> dict[str, str]:
    """File -> SHA-256 of what the command leaves."""
    found = {p for pattern in command.results for p in base.glob(pattern) if p.is_file()}
    return {
        str(p.relative_to(base)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(found)
    }
