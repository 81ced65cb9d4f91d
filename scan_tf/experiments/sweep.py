"""Clustering many times on one pretext: sweeps over settings, and means over seeds.

As for the paper's tables, the pretext is trained once; neighbours, SCAN and self-label are repeated
with other settings and seeds. Every point and seed is an ordinary run directory below
`RUN/sweeps/<name>/`; what it has in common with another it takes from there (`variants.py`), so
that a sweep over `selflabel.*` trains SCAN once for each seed.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from scan_tf.errors import ConfigError, ScanError, StageError
from scan_tf.experiments import tables, variants
from scan_tf.experiments.variants import Variant
from scan_tf.pipeline import evaluate, stages
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import CLUSTERINGS, REPEATED
from scan_tf.storage import files

# Writes the tables of the rows so far.
Writer = Callable[[list[dict[str, Any]], Mapping[str, Any] | None], None]


def run(
    run: Run,
    axes: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
    selflabel: bool = True,
) -> Path:
    """Train and score every combination of the values, with every seed.

    Writes `table.csv` (a row for each point and seed), `table.md` (a line for each point) and
    `sweep.png`, up to date after every point. The same call goes on after an interruption.

    Args:
        run: the parent, with a finished pretext.
        axes: dotted key -> the values to try, such as `{"scan.entropy_weight": [1, 2, 5]}`.
        fixed: dotted key -> the value of all points, in place of the parent's.
        seeds: `clustering_seed`s; None: the parent's.
        name: of the folder; None: the keys of the axes.
        selflabel: run that stage too; without, the clustering of SCAN is scored alone.

    Returns:
        The folder `RUN/sweeps/<name>`.

    Raises:
        ConfigError: a setting is unknown, bad, or one that the pretext reads.
        StageError: the pretext is missing, or the folder holds a sweep with other settings.
        ScanError: points failed, after all others were finished.
        Interrupted: a signal came; what is done stays.
    """
    if not axes:
        raise ConfigError(
            "sweep: no setting has several values. Give some, such as scan.entropy_weight=1,2,5; "
            "to repeat the same settings: scan-tf evaluate --seeds 0 1 2"
        )
    name = "+".join(axes) if name is None else name
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ConfigError(f"--name: expected letters, digits and any of . + = _ -, got '{name}'.")
    folder = run.root / "sweeps" / name
    keys = [*axes]

    def write(rows: list[dict[str, Any]], parent: Mapping[str, Any] | None) -> None:
        tables.write_csv(folder / "table.csv", rows, keys)
        files.write_text(folder / "table.md", tables.by_point(rows, keys, parent) + "\n")
        tables.draw(folder / "sweep.png", rows, keys, parent)

    wanted = [s for s in REPEATED if selflabel or s != CLUSTERINGS[-1]]
    points = variants.plan(run, folder, axes=axes, fixed=fixed or {}, seeds=seeds, stages=wanted)
    _train(points, folder, write)
    return folder


def repeat(
    run: Run, seeds: Sequence[int], fixed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Cluster with several seeds; means and deviations, as the paper reports them.

    Everything lies in `RUN/sweeps/seeds` (with `fixed` in a folder that names it too): `table.csv`,
    `table.md`, and what is returned as `scores.json`.

    Args:
        run: the parent, with a finished pretext.
        seeds: `clustering_seed`s.
        fixed: dotted key -> value, in place of the parent's.

    Returns:
        seeds; for `scan` and `selflabel` and each score the mean, std (of the population: the
        divisor is the number of seeds) and values (None for a seed that failed). Scores in 0..1.

    Raises:
        ScanError: as for `run`.
    """
    fixed = fixed or {}
    folder = run.root / "sweeps" / "+".join(["seeds", *filter(None, [variants.label(fixed)])])
    scores: dict[str, Any] = {}

    def write(rows: list[dict[str, Any]], parent: Mapping[str, Any] | None) -> None:
        scores.update(seeds=[row["seed"] for row in rows], deviation="population")
        for stage in CLUSTERINGS:
            found = {m: tables.summary([r[f"{stage}_{m}"] for r in rows]) for m in tables.MEASURES}
            scores[stage] = {m: s for m, s in found.items() if s["mean"] is not None}
        tables.write_csv(folder / "table.csv", rows, [])
        files.write_text(folder / "table.md", tables.by_stage(rows, parent) + "\n")
        files.write_text(folder / "scores.json", json.dumps(scores, indent=2) + "\n")

    points = variants.plan(run, folder, axes={}, fixed=fixed, seeds=seeds)
    _train(points, folder, write)
    return scores


def _train(points: Sequence[Variant], folder: Path, write: Writer) -> None:
    """Run what is not finished, and keep the tables up to date."""
    to_do = [point for point in points if not point.is_finished]
    if to_do:
        # What is missing here would fail every point.
        evaluate.images_of(to_do[0], evaluate.evaluated_split(to_do[0]))
    points[0].parent.claim()
    roots = [points[0].parent.root, *(point.root for point in points)]
    errors: dict[Path, ScanError] = {}
    start, trained = time.monotonic(), 0
    for number, point in enumerate(points, 1):
        title = f"[{number}/{len(points)}] {point}"
        if point not in to_do:
            print(f"{title}: done before; skipped.")
            continue
        seconds = (time.monotonic() - start) / max(1, trained) * (len(to_do) - trained)
        print(f"\n{title}{f'; about {_duration(seconds)} left' if trained else ''}", flush=True)
        point.share(roots)
        error = _run_stages(point)
        if error is not None:
            errors[point.root] = error
        trained += 1
        _write(points, errors, write)
        # Every point has built networks of its own.
        keras.backend.clear_session()
    _write(points, errors, write)
    print(f"\n{(folder / 'table.md').read_text(encoding='utf-8')}\ntables and runs: {folder}")
    if errors:
        first = next(iter(errors.values()))
        raise type(first)(
            f"{len(errors)} of {len(points)} points failed (see {folder / 'table.md'}); the "
            f"first: {first}"
        )


def _run_stages(point: Variant) -> ScanError | None:
    """Run the stages of a point; returns the error with which it failed."""
    failed = None
    for stage in point.stages:
        try:
            stages.run_stage(point, stage)
        except ScanError as error:
            print(f"{stage}: failed. {error}")
            failed = error
            if stage != CLUSTERINGS[-1]:  # without that one SCAN can still be scored
                break
        else:
            # A finished stage does not need them, and together they would fill a disk.
            for checkpoints in [*point.folder(stage).rglob("ckpt")]:
                shutil.rmtree(checkpoints)
    return failed


def _write(points: Sequence[Variant], errors: Mapping[Path, ScanError], write: Writer) -> None:
    """Write the tables of the points that have finished or failed."""
    rows, reports = [], []
    for point in points:
        scored = point.is_done("evaluate")
        if not scored and point.root not in errors:
            continue
        found = evaluate.read_report(point) if scored else {}
        reports += [found] if found else []
        seconds = [point.record(stage).wall_time_s for stage in CLUSTERINGS]
        error = errors.get(point.root)
        rows.append(
            {
                **point.values,
                "seed": point.config.clustering_seed,
                **tables.scores(found),
                "wall_time_s": round(sum(seconds), 2),
                "error": None if error is None else str(error),
            }
        )
    write(rows, _baseline(points[0].parent, reports))


def _baseline(parent: Run, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The parent's report, if its k-means may stand beside these reports."""
    try:
        theirs = evaluate.read_report(parent)
    except StageError:
        return None  # not evaluated, or with other settings by now
    same = ("split", "num_images", "num_clusters")
    return theirs if all(r[k] == theirs[k] for r in reports for k in same) else None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
