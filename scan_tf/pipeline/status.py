"""How far a run is, from its directory alone: nothing is computed and TensorFlow is not loaded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from scan_tf.pipeline import decided, plan
from scan_tf.pipeline.plan import Seen
from scan_tf.pipeline.record import Record
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import STAGES, TRAINED, is_left_out, since
from scan_tf.training.progress import FILE, Progress, duration


def describe(root: Path) -> str:
    """A line for each stage: done, running or not begun, how far, and how long the rest takes.

    Raises:
        ConfigError: the directory holds no run.
        StageError: a record is damaged.
    """
    run = Run.open(root)
    left = plan.remaining(run.config, seen(root))
    records = {stage: run.record(stage) for stage in STAGES}
    lines = [f"{run.config.name}: {root}"]
    for stage in STAGES:
        lines.append(_line(run, stage, records[stage], left.get(stage)))
        if stage == "neighbors" and (found := decided.read(run)):
            lines.append(f"    clusters: {found['sentence']}")
    if not all(records[s].is_done or is_left_out(run.config, s) for s in STAGES):
        rest = [s for stage, s in left.items() if not records[stage].is_done]
        if rest:
            lines.append(f"about {duration(sum(rest))} of computing are left")
        lines.append(f"to go on: scan-tf run --run-dir {root}")
    return "\n".join(lines)


def tell(run: Run, stage: str, progress: Progress) -> None:
    """Print how long the whole run still takes, about, from a stage that trains."""
    rate = progress.rate()
    if rate is None or not run.config.runtime.progress:
        return
    found = seen(run.root)
    found[stage] = Seen(progress.step, progress.total, rate, progress.compile_s)
    left = plan.remaining(run.config, found)
    if left:
        known = {name: left[name] for name in since(stage) if name in left}
        untold = "".join(f", and {name}" for name in since(stage) if name not in left)
        progress.say(f"  the whole run: {plan.in_words(known)} left{untold}")


def seen(root: Path) -> dict[str, Seen]:
    """Of training stages in a run directory: their steps and how fast they were, where known."""
    found = {stage: steps(root / STAGES[stage].folder) for stage in TRAINED}
    return {
        stage: Seen(f["step"], f["total"], f["steps_per_second"], f["compile_s"])
        for stage, f in found.items()
        if f.get("steps_per_second")
    }


def steps(folder: Path) -> dict[str, Any]:
    """Of a training stage's folder: step, total, steps_per_second and age_s; {} where unknown."""
    path = folder / FILE
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        step, total = int(facts["step"]), int(facts["total"])
        rate, compile_s = facts["steps_per_second"], float(facts["compile_s"])
        age = max(0.0, time.time() - path.stat().st_mtime)  # the clock may have been set back
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {
        "step": step,
        "total": total,
        "steps_per_second": rate and float(rate),
        "compile_s": compile_s,
        "age_s": age,
    }


def _line(run: Run, stage: str, record: Record, left: float | None) -> str:
    if not record.has_begun and is_left_out(run.config, stage):
        return f"  {stage:10} left out, {stage}.epochs is 0"
    if not record.has_begun:
        epochs = f", {getattr(run.config, stage).epochs} epochs" if stage in TRAINED else ""
        about = "" if left is None else f", about {duration(left)}"
        return f"  {stage:10} not begun{epochs}{about}"
    if record.is_done:
        return f"  {stage:10} done, in {duration(record.wall_time_s)}"
    text = f"  {stage:10} {record.status}"
    if stage not in TRAINED:
        return text
    found = steps(run.folder(stage))
    if not found:
        return f"{text}, no step yet"
    step, total, rate = found["step"], found["total"], found["steps_per_second"]
    text += f", step {step:,} of {total:,} ({step / total:.0%})"
    if rate:
        text += f", {rate:.3g} steps/s: {duration((total - step) / rate)} left"
    return f"{text}; seen {duration(found['age_s'])} ago"
