"""Published results: what a finished run leaves in the repository.

`results/<date>-<name>/` holds small text files only: `report.json`, `config.yaml`, `metrics.jsonl`
(thinned), `environment.json`, and `scores.json` where something was repeated. Paths of the machine
that computed stay out. `result_table.py` makes the README's table of them.
"""

from __future__ import annotations

import datetime
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.pipeline.stage import CLUSTERINGS, is_left_out, up_to
from scan_tf.storage import files

if TYPE_CHECKING:
    from scan_tf.pipeline.run_dir import Run

# Rows of metrics kept of each stage.
MAX_ROWS = 200
_CLUSTERINGS = ("kmeans_features", *CLUSTERINGS)
_SCORES = ("acc", "nmi", "ari")
_PRETEXT = ("knn_acc", "neighbor_purity")


def add(
    roots: Sequence[Path],
    results: Path,
    *,
    name: str,
    data_note: str | None = None,
    hardware: str | None = None,
    commit: str | None = None,
    note: str | None = None,
) -> Path:
    """Copy what is worth publishing of a finished run.

    Args:
        roots: the run directory; or several, equal but for their seeds, whose means are published.
        results: the folder of all results.
        name: of the new folder, after the date.
        data_note: what the data really is, such as "CIFAR-10, JPEG q75 copy".
        hardware: what it ran on; None: as the run recorded it.
        commit: of the code; None: as the run recorded it.
        note: what else a reader has to know.

    Returns:
        The new folder.

    Raises:
        StageError: a run is not finished, or runs differ in more than their seeds.
        ConfigError: the name is bad or taken, or the commit is not known.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"--name: expected letters, digits and any of . + - _, got '{name}'.")
    runs = [_finished(root) for root in roots]
    reports = [_json(run.sealed("evaluate", "report.json")) for run in runs]
    root = roots[0]
    date = datetime.date.fromtimestamp((root / "eval" / "report.json").stat().st_mtime)
    folder = results / f"{date.isoformat()}-{name}"
    if folder.exists():
        raise ConfigError(f"--name: {folder} exists. Give another name, or remove it.")
    settings = _settings(runs[0])
    if any(_without_seed(_settings(r)) != _without_seed(settings) for r in runs[1:]):
        raise StageError(f"{roots[1]}: the runs differ in more than their seeds.")
    has_path, settings["data"]["path"] = settings["data"]["path"] is not None, None
    scores = _repeated(roots, reports)
    environment = {
        "date": date.isoformat(),
        "command": _command(folder, has_path, scores),
        "data_note": data_note,
        "note": note,
        "wall_time_s": {stage: _mean_time(runs, stage) for stage in _stages(runs[0])},
        **_environment(root, commit, hardware),
    }
    texts = {
        "report.json": _as_json(_report(reports[0])),
        "config.yaml": yaml.safe_dump(settings, sort_keys=False),
        "metrics.jsonl": _thinned_metrics(runs[0]),
        "environment.json": _as_json(environment),
    }
    texts |= {} if scores is None else {"scores.json": _as_json(scores)}
    with files.replacing(folder) as fresh:
        for file, text in texts.items():
            (fresh / file).write_text(text, encoding="utf-8")
    return folder


def thin(rows: Sequence[Mapping[str, Any]], count: int = MAX_ROWS) -> list[Mapping[str, Any]]:
    """At most `count` rows of metrics, the first and the last among them, ends of epochs first."""
    if len(rows) <= count:
        return list(rows)
    ends = [i for i, row in enumerate(rows) if row["epoch"] == int(row["epoch"])]
    others = [i for i in range(len(rows)) if i not in set(ends)]
    chosen = {0, len(rows) - 1, *_evenly(ends, count - 2)}
    chosen |= {*_evenly(others, count - len(chosen))}
    return [rows[i] for i in sorted(chosen)]


def _evenly(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items at even distances, or all where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _finished(root: Path) -> Run:
    from scan_tf.pipeline.run_dir import Run

    run = Run.open(root)
    for stage in _stages(run):
        run.require(stage)
    return run


def _stages(run: Run) -> list[str]:
    """Those up to the evaluation that the run does not leave out."""
    return [stage for stage in up_to("evaluate") if not is_left_out(run.config, stage)]


def _settings(run: Run) -> dict[str, Any]:
    from scan_tf import config

    return dict(config.to_dict(run.config))


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    data = {k: v for k, v in settings["data"].items() if k != "path"}
    rest = {k: v for k, v in settings.items() if k not in ("seed", "name", "runtime")}
    return rest | {"data": data}


def _mean_time(runs: Sequence[Run], stage: str) -> float:
    return round(statistics.fmean(run.record(stage).wall_time_s for run in runs), 2)


def _environment(root: Path, commit: str | None, hardware: str | None) -> dict[str, Any]:
    """What the run ran on, without the paths of that machine; of the last session where several."""
    from scan_tf.experiments import sessions

    recorded = _json(root / "environment.json")
    held = sessions.journal(root)
    last = held[-1] if held else {}
    recorded["commit"] = commit or last.get("commit") or recorded.get("commit")
    if recorded["commit"] is None:
        raise ConfigError(f"{root}: its commit was not recorded. Give it by --commit.")
    where = dict.fromkeys(_hardware(session) for session in held) or [_hardware(recorded)]
    recorded["hardware"] = hardware or "; ".join(where)
    if held:
        kept = ("begun", "minutes", "ended", "commit")
        recorded["sessions"] = [{k: session.get(k) for k in kept} for session in held]
    return {k: v for k, v in recorded.items() if k != "command"}


def _hardware(recorded: Mapping[str, Any]) -> str:
    facts = recorded.get("hardware") or {}
    parts = [*facts.get("accelerators", [])]
    cores = f"{facts['cores']} cores of " if "cores" in facts else ""
    parts.append(f"{cores}{recorded['processor']}")
    parts += [f"{facts['memory_gib']} GiB"] if "memory_gib" in facts else []
    return ", ".join(parts)


def _repeated(roots: Sequence[Path], reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Means over seeds: of whole runs, or of the clustering, as `evaluate --seeds` wrote them."""
    path = roots[0] / "sweeps" / "seeds" / "scores.json"
    if len(roots) == 1:
        return {"repeated": "clustering", **_json(path)} if path.exists() else None
    from scan_tf.experiments.tables import summary

    scores: dict[str, Any] = {"repeated": "all stages", "seeds": [r["seed"] for r in reports]}
    scores["deviation"] = "population"
    for part, measures in {**dict.fromkeys(_CLUSTERINGS, _SCORES), "pretext": _PRETEXT}.items():
        scores[part] = {m: summary([report[part][m] for report in reports]) for m in measures}
    return scores


def _command(folder: Path, has_path: bool, scores: Mapping[str, Any] | None) -> list[str]:
    """The exact commands: the whole config lies beside the results."""
    config = f"--config {folder.parent.name}/{folder.name}/config.yaml"
    data = " data.path=DIR" if has_path else ""
    if scores is None:
        return [f"scan-tf run {config}{data}"]
    seeds = " ".join(map(str, scores["seeds"]))
    if scores["repeated"] == "clustering":
        run = f"{config} --run-dir RUN_DIR{data}"
        return [f"scan-tf run {run}", f"scan-tf evaluate --run-dir RUN_DIR --seeds {seeds}"]
    run = f"scan-tf run {config} --run-dir RUN_DIR/$s{data} seed=$s"
    return [f"for s in {seeds}; do {run}; done"]


def _report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with the bare names of files."""
    return {**report, "skipped_files": [Path(f).name for f in report["skipped_files"]]}


def _thinned_metrics(run: Run) -> str:
    from scan_tf.storage.files import read_metrics

    lines = []
    for stage in ("pretext", "scan", "selflabel"):
        rows = thin(read_metrics(run.sealed(stage, "metrics.jsonl")))
        lines += [json.dumps({"stage": stage, **row}) + "\n" for row in rows]
    return "".join(lines)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read or is damaged ({error}).") from error


def _as_json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2) + "\n"
