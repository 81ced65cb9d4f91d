"""Faults other than kills: damage, a full disk, one that is only read, two writers, the clock."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torture_programs
from torture_cases import TRAINED
from torture_programs import text_of
from torture_results import REPORT, equal, report
from torture_runs import Torture

# A file system in memory that only the commands of one call see.
_PRIVATE = ("unshare", "--map-root-user", "--mount")
# Shares of what a run takes in the end.
_ROOM = (0.02, 0.2, 0.4, 0.6, 0.9)
_LIMITS = (500, 50_000)
_FILL = """
mount -t tmpfs -o size="$ROOM" none "$RUN" && cp "$CONFIG" "$RUN/config.yaml" || exit 1
for size in $SIZES; do
    mount -o remount,size="$size" "$RUN"
    "$@" run --run-dir "$RUN" >"$LOG.$size" 2>&1; echo "$size $?"
done
cp -a "$RUN/." "$OUT"
"""
_READ_ONLY = """
mount -t tmpfs none "$RUN" && cp -a "$WHOLE/." "$RUN" && mount -o remount,ro "$RUN" || exit 1
for text in "run --redo evaluate --run-dir $RUN" "status $RUN" "pack $RUN $OUT/pack" \
    "predict $RUN $IMAGES --output $OUT/predicted.csv" "export --redo export --run-dir $RUN"; do
    "$@" $text >"$LOG.${text%% *}" 2>&1; echo "${text%% *} $?"
done
"""


def _in_private(torture: Torture, script: str, **names: object) -> list[tuple[str, int]] | None:
    """Word and exit code of each line of a script; None: no file system can be made here."""
    mounts = [*_PRIVATE, "mount", "-t", "tmpfs", "none", str(torture.folder / "private")]
    (torture.folder / "private").mkdir(exist_ok=True)
    if shutil.which("unshare") is None or subprocess.run(mounts, capture_output=True).returncode:
        print("No file system can be made here: a fault is left out.", flush=True)
        return None
    program = torture_programs.command(quick=torture.quick)
    done = subprocess.run(
        [*_PRIVATE, "bash", "-c", script, "torture", *program],
        env=torture_programs.ENVIRONMENT | {name: str(value) for name, value in names.items()},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"cannot be tried: {done.stderr}")
    return [(word, int(code)) for word, code in map(str.split, done.stdout.splitlines())]


def _is_told(code: int, text: str) -> bool:
    """Whether a program ended as it should where it cannot do what it is asked for."""
    return code in (2, 3) and "Traceback" not in text and "scan-tf: " in text


def full_disk(torture: Torture, case: str) -> None:
    """Run on a disk that is too small, then on a larger one, until there is room for all."""
    torture.go_on()
    whole, run = torture.whole(case), torture.new(f"{case}-full", case)
    out, log = torture.folder / "full-out", torture.folder / "full.log"
    config = shutil.copy(run / "config.yaml", torture.folder / "full.yaml")
    taken = sum(p.stat().st_blocks * 512 for p in whole.rglob("*"))
    sizes = [max(4096, round(taken * share) // 4096 * 4096) for share in _ROOM]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    enough = sizes + [2 * taken + 2**20]
    codes = _in_private(
        torture,
        _FILL,
        ROOM=2**20,
        RUN=run,
        CONFIG=config,
        SIZES=" ".join(map(str, enough)),
        LOG=log,
        OUT=out,
    )
    if codes is None:
        return
    last = str(enough[-1])
    for size, code in codes:
        text = text_of(log.with_name(f"{log.name}.{size}"))
        if size == last:
            torture.check("the same command with room again", case, code == 0, text)
        else:
            good = code == 0 or (_is_told(code, text) and "are needed there" in text)
            torture.check("full disk", _stage(text), good, f"{size} bytes: {code}: {text}")
    torture.compare(whole, out, f"{case}, after a full disk")


def small_files(torture: Torture, case: str) -> None:
    """Let no file grow beyond a size, as a quota does, from a stage on; then without a limit."""
    torture.go_on()
    whole, run = torture.whole(case), torture.new(f"{case}-small", case)
    for stage in TRAINED:
        _stopped(torture, run, stage)
        for limit in _LIMITS:
            # What it says goes into a pipe, which has no size.
            done = subprocess.run(
                [*torture_programs.command(quick=torture.quick), "run", "--run-dir", str(run)],
                env=torture_programs.ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=functools.partial(
                    resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)
                ),
            )
            code, text = done.returncode, done.stdout[-2000:]
            good = _is_told(code, text)
            torture.check("files limited", stage, good, f"{limit} bytes: {code}: {text}")
    log = torture.folder / "small.log"
    code = torture.start(log, "run", "--run-dir", run).wait()
    torture.check("the same command with room again", case, code == 0, text_of(log))
    torture.compare(whole, run, f"{case}, after limited files")


def read_only(torture: Torture, case: str) -> None:
    """Give commands a run directory that cannot be written to."""
    torture.go_on()
    whole, run = torture.whole(case), torture.folder / "read-only"
    out, log = torture.folder / "read-only-out", torture.folder / "read-only.log"
    shutil.rmtree(out, ignore_errors=True)
    for folder in (run, out):
        folder.mkdir(exist_ok=True)
    images = torture.folder / "images" / "test"
    codes = _in_private(torture, _READ_ONLY, WHOLE=whole, RUN=run, LOG=log, OUT=out, IMAGES=images)
    for command, code in codes or ():
        text = text_of(log.with_name(f"{log.name}.{command}"))
        writes = command in ("run", "export")
        good = _is_told(code, text) if writes else code == 0
        torture.check("a disk that is only read", command, good, f"{code}: {text}")


def two_writers(torture: Torture, case: str) -> None:
    """Start a second program in a run directory in which one is at work."""
    torture.go_on()
    whole, run = torture.whole(case), torture.new(f"{case}-two", case)
    logs = [torture.folder / f"{case}-two-{number}.log" for number in range(2)]
    first = torture.start(logs[0], "run", "--run-dir", run)
    for stage in TRAINED:
        while first.poll() is None and not (run / "status" / f"{stage}.json").exists():
            time.sleep(0.02)
        code = torture.start(logs[1], "run", "--run-dir", run).wait()
        text = text_of(logs[1])
        named = f"process {first.pid} on " in text
        if first.poll() is None:
            torture.check("second writer", stage, _is_told(code, text) and named, f"{code}: {text}")
    torture.check("second writer", "the first", first.wait() == 0, text_of(logs[0]))
    torture.compare(whole, run, f"{case}, with two writers")


def clock(torture: Torture, case: str) -> None:
    """Stop a run, and give its files times to come, as when the clock is set back."""
    for stage in TRAINED:
        torture.go_on()
        whole, run = torture.whole(case), torture.new(f"{case}-clock", case)
        log = _stopped(torture, run, stage)
        later = time.time() + 10 * 365 * 86400
        for path in run.rglob("*"):
            os.utime(path, (later, later))
        code = torture.start(log, "run", "--run-dir", run).wait()
        torture.check("clock set back", stage, code == 0, text_of(log))
        torture.compare(whole, run, f"{case}, after the clock was set back")


def damage(torture: Torture, case: str) -> None:
    """Flip a bit of every file: the results stay the same, or it is told in a line.

    Of a finished run the evaluation is made anew, of what it exports an image is predicted, and a
    run that was stopped while it trains goes on.
    """
    whole = torture.whole(case)
    stopped = torture.new(f"{case}-stopped", case)
    _stopped(torture, stopped, "selflabel")
    images = torture.folder / "images" / "test"
    redo = ("evaluate", "--redo", "evaluate", "--run-dir")
    tries: list[tuple[Path, Path, tuple[str, ...]]]
    tries = [(whole, p, redo) for p in _files(whole) if not _is_in(p, "export", "ckpt")]
    tries += [(whole, p, ("predict",)) for p in _files(whole) if _is_in(p, "export")]
    tries += [
        (stopped, p, ("run", "--run-dir"))
        for p in _files(stopped)
        if _is_in(p, "ckpt", "status", "selflabel", "neighbors")
    ]
    torture.random.shuffle(tries)
    log = torture.folder / "damage.log"
    for base, file, command in tries:
        torture.go_on()
        run = torture.folder / "damaged"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        content = bytearray((base / file).read_bytes())
        content[torture.random.randrange(len(content))] ^= 1 << torture.random.randrange(8)
        (run / file).unlink()
        (run / file).write_bytes(content)
        extra = (images, "--output", torture.folder / "predicted.csv")
        rest = extra if command == ("predict",) else ()
        code = torture.worker.run(log, *command, run, *rest)
        text, again = text_of(log), run / REPORT
        same = code == 0 and (rest or equal(report(whole / REPORT), report(again)))
        same = same or "is not as the program wrote it" in text
        where = f"{'stopped' if base == stopped else 'finished'} run: {file.parts[0]}"
        good = bool(same) or _is_told(code, text)
        torture.check("a bit flipped", where, good, f"{file}: exit code {code}: {text}")
        shutil.rmtree(run)


def _stopped(torture: Torture, run: Path, stage: str) -> Path:
    """Have a run stopped by SIGTERM in a stage, after its first checkpoint; its log."""
    log = run.with_suffix(".log")
    process = torture.start(log, "run", "--run-dir", run)
    while process.poll() is None and not (run / stage / "ckpt" / "state.npz").exists():
        time.sleep(0.02)
    torture.stop(process, log, signal.SIGTERM, f"to go on with another fault: {stage}")
    return log


def _files(run: Path) -> list[Path]:
    found = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"]
    return [p.relative_to(run) for p in found if p.stat().st_size]


def _is_in(file: Path, *folders: str) -> bool:
    return any(part in folders for part in file.parts)


def _stage(text: str) -> str:
    """The last stage that a program spoke of."""
    known = ("pretext", "neighbors", "scan", "selflabel", "evaluate", "export")
    found = [word for line in text.splitlines() if (word := line.partition(":")[0]) in known]
    return found[-1] if found else "before the stages"


Fault = Callable[[Torture, str], None]
FAULTS: dict[str, Fault] = {
    "damage": damage,
    "full-disk": full_disk,
    "small-files": small_files,
    "read-only": read_only,
    "two-writers": two_writers,
    "clock": clock,
}
