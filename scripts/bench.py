"""What the bench_*.py scripts share: cases in turn, each in a process of its own, and their table.

The first case of a group is its baseline. All cases of a group are warmed up, then each is run
once a round, so that what else the machine does meets all of them. This process imports nothing
large: a new process starts with the peak memory of the one that made it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Run = Callable[[], Mapping[str, Any] | None]
PACKAGES = "tensorflow keras numpy torch torchvision faiss-cpu annoy hnswlib scikit-learn pillow"
PEAK = "peak of the machine"
# A run that takes less is repeated for so long, and the mean counts.
SHORTEST_S = 0.5


@dataclasses.dataclass(frozen=True)
class Case:
    """One way of doing something.

    Attributes:
        group: what is done; the first case of a group is what the others are compared with.
        name: how.
        make: a function at the top of a module that prepares the work and returns the function
            that does it once. That may return facts to report; `flop`, the floating-point
            operations of one run, becomes a share of the machine's peak.
        options: arguments of `make`.
        units: what one run does, in images, queries or whatever the script counts.
        dtype: whose peak counts: float32 or bfloat16.
        needs: modules without which the case is left out.
        warm: run it once before it counts.
    """

    group: str
    name: str
    make: Callable[..., Run]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    units: float = 1
    dtype: str = "float32"
    needs: tuple[str, ...] = ()
    warm: bool = True


@dataclasses.dataclass
class Result:
    """What was measured of a case; `seconds` has a value for every round."""

    case: Case
    seconds: list[float] = dataclasses.field(default_factory=list)
    ready_s: float = 0.0
    peak_mib: float | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    ratios: list[float] = dataclasses.field(default_factory=list)
    share: float | None = None
    note: str = ""

    def rates(self) -> dict[str, float]:
        """Units per second: median, min and max over the rounds."""
        rates = [self.case.units / s for s in self.seconds]
        return {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        record: dict[str, Any] = {"group": self.case.group, "name": self.case.name}
        if not self.seconds:
            return record | {"note": self.note}
        return record | {
            "options": {k: _plain(v) for k, v in self.case.options.items()},
            "units": self.case.units,
            "seconds": self.seconds,
            "rate": self.rates(),
            "ratio": statistics.median(self.ratios) if self.ratios else None,
            "ready_s": self.ready_s,
            "peak_mib": self.peak_mib,
            "share_of_peak": self.share,
            **self.facts,
        }


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, list, type(None))) else repr(value)


def parser(doc: str, *, repeats: int = 5) -> argparse.ArgumentParser:
    """The arguments that all scripts have."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--repeats", type=int, default=repeats, help="rounds after the warm-up")
    made.add_argument("--only", default="", metavar="REGEX", help="cases by 'group: name'")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    made.add_argument("--inline", action="store_true", help="all in one process, for debugging")
    return made


def main(cases: Sequence[Case], arguments: argparse.Namespace, unit: str) -> list[Result]:
    """Measure, print the table, write the JSON file."""
    chosen = [c for c in cases if re.search(arguments.only, f"{c.group}: {c.name}")]
    results: list[Result] = []
    for group in dict.fromkeys(c.group for c in chosen):
        found = measure([c for c in chosen if c.group == group], arguments)
        results += found
        compare(found, results)
        print(table(found, unit), flush=True)
    if arguments.json:
        write(arguments, unit, results)
    return results


def write(arguments: argparse.Namespace, unit: str, results: Sequence[Result], **more: Any) -> None:
    """The JSON file: the machine, the arguments, and a record for every case."""
    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    content = {"machine": machine(), "arguments": options, "unit": unit, **more}
    content["results"] = [r.record() for r in results]
    arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def peaks(size: int = 4096, dtypes: Sequence[str] = ("float32", "bfloat16")) -> list[Case]:
    """The machine's measured peak: a product of two square matrices in TensorFlow."""
    return [Case(PEAK, d, _product, {"size": size, "dtype": d}, 2e-9 * size**3, d) for d in dtypes]


def _product(size: int, dtype: str) -> Run:
    import tensorflow as tf

    matrix = tf.cast(tf.random.stateless_normal([size, size], [0, 1]), dtype)

    def run() -> dict[str, float]:
        # Reading one number waits until a GPU is done.
        float(tf.matmul(matrix, matrix)[0, 0])
        return {"flop": 2 * size**3}

    return run


def compare(found: Sequence[Result], known: Sequence[Result]) -> None:
    """Fill in the ratios to the baseline, round by round, and the shares of the peak."""
    base = found[0]
    peak = {
        r.case.dtype: 1 / min(r.seconds) * r.facts["flop"]
        for r in known
        if r.case.group == PEAK and r.seconds
    }
    for result in found:
        if not result.seconds:
            continue
        if base.seconds:
            pairs = zip(base.seconds, result.seconds, strict=True)
            scale = result.case.units / base.case.units
            result.ratios = [scale * b / s for b, s in pairs]
        if "flop" in result.facts and result.case.dtype in peak:
            rate = result.facts["flop"] / statistics.median(result.seconds)
            result.share = rate / peak[result.case.dtype]


def measure(cases: Sequence[Case], arguments: argparse.Namespace) -> list[Result]:
    """The cases of one group, in rounds."""
    with contextlib.ExitStack() as stack:
        pairs = [(Result(case), stack.enter_context(_started(case, arguments))) for case in cases]
        for result, call in pairs:
            for what in ("make", "run") if result.case.warm else ("make",):
                _step(result, call, what, warming=True)
        for _ in range(arguments.repeats):
            for result, call in pairs:
                _step(result, call, "run")
        for result, call in pairs:
            if not result.note:
                result.peak_mib = call("peak")
    return [result for result, _ in pairs]


def _step(result: Result, call: Callable[[str], Any], what: str, *, warming: bool = False) -> None:
    if result.note:
        return
    missing = [n for n in result.case.needs if importlib.util.find_spec(n) is None]
    try:
        if missing:
            raise ModuleNotFoundError(f"not installed: {', '.join(missing)}")
        seconds, facts = call(what)
    # Whatever goes wrong in one case, the others are measured.
    except Exception as error:
        result.note, result.seconds = f"{error}", []
        return
    if warming:
        result.ready_s += seconds
    else:
        result.seconds.append(seconds)
    result.facts.update(facts or {})


@contextlib.contextmanager
def _started(case: Case, arguments: argparse.Namespace) -> Iterator[Callable[[str], Any]]:
    """A function that makes the case, runs it once or tells its peak, in a process of its own."""
    if arguments.inline:
        yield _Worker(case)
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, case), daemon=True)
    process.start()
    theirs.close()

    def call(what: str) -> Any:
        ours.send(what)
        answer = ours.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    try:
        yield call
    finally:
        ours.close()
        process.join(timeout=10)
        process.kill()


class _Worker:
    """Prepares a case, runs it once a call, and tells the peak of the memory."""

    def __init__(self, case: Case):
        self.case = case

    def __call__(self, what: str) -> Any:
        if what == "peak":
            scale = 2**20 if sys.platform == "darwin" else 2**10
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
        began = time.perf_counter()
        if what == "make":
            self.run = self.case.make(**self.case.options)
            return time.perf_counter() - began, None
        seconds, times = 0.0, 0
        while seconds < SHORTEST_S:
            facts = self.run()
            seconds, times = time.perf_counter() - began, times + 1
        return seconds / times, facts


def _serve(connection: Connection, case: Case) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The processes of a group share a GPU; the first must not take all of its memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    worker = _Worker(case)
    with contextlib.suppress(EOFError):
        while True:
            what = connection.recv()
            try:
                connection.send(worker(what))
            except Exception as error:
                connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def table(results: Sequence[Result], unit: str) -> str:
    """The results of one group as text."""
    group, first = results[0].case.group, results[0].case.name
    width = max(len(r.case.name) for r in results)
    unit = "GFLOP" if group == PEAK else unit
    head = f"{unit}/s median        min        max   ratio  peak MiB  of peak"
    lines = [f"\n{group} (ratio to {first})", f"{'':{width}}  {head}"]
    for r in results:
        if not r.seconds:
            lines.append(f"{r.case.name:{width}}  {r.note}")
            continue
        rates = r.rates()
        cells = [f"{rates['median']:{len(unit) + 9}.4g}"]
        cells += [f"{rates[k]:10.4g}" for k in ("min", "max")]
        cells.append(f"{statistics.median(r.ratios):7.3g}" if r.ratios else " " * 7)
        cells.append(f"{r.peak_mib:9.0f}" if r.peak_mib else " " * 9)
        cells.append(f"{r.share:8.1%}" if r.share else " " * 8)
        facts = [f"{k} {v:.4g}" for k, v in r.facts.items() if isinstance(v, float) and k != "flop"]
        lines.append(" ".join([f"{r.case.name:{width}} ", *cells, *facts]))
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for name in PACKAGES.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    here = Path(__file__).parent
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(here), "describe", "--always", "--dirty"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "gpu": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "packages": versions,
    }


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if found:
            return found.group(1)
    return platform.processor()


if __name__ == "__main__":
    parser(__doc__).parse_args()
    sys.exit("Run one of the scripts bench_*.py; this file is what they share.")
