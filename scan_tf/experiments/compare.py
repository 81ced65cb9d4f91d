"""Runs side by side: what each stage reached, what it cost, in one table and one chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scan_tf.errors import ConfigError
from scan_tf.evaluation import charts
from scan_tf.evaluation.text import UNKNOWN, markdown, percent
from scan_tf.pipeline import reports
from scan_tf.pipeline.stage import CLUSTERINGS
from scan_tf.storage import files

if TYPE_CHECKING:
    from scan_tf.pipeline.run_dir import Run

# Column -> what it is called; in the order of the stages.
_SCORES = {
    "knn_acc": "kNN",
    "knn_backbone": "kNN backbone",
    "knn_projection": "kNN projection",
    "linear_backbone": "linear backbone",
    "linear_projection": "linear projection",
    "neighbor_purity": "purity",
    "kmeans_acc": "k-means",
    "scan_acc": "SCAN",
    "selflabel_acc": "self-label",
}
# What the runs must have in common for their scores to stand beside each other.
_IMAGES = ("data", "split", "num_images")

Row = Mapping[str, Any]


def write(roots: Sequence[Path], output: Path) -> str:
    """Write `compare.md` and `compare.csv`, and with labels `compare.png`, about evaluated runs.

    Args:
        roots: run directories, in the order of the rows.
        output: the folder of the files.

    Returns:
        The Markdown.

    Raises:
        ConfigError: a directory holds no run, or is given twice.
        StageError: a run has not been evaluated, or with other settings.
    """
    from scan_tf.pipeline.run_dir import Run

    known = [root.resolve() for root in roots]
    for root, place in zip(roots, known, strict=True):
        if known.count(place) > 1:
            raise ConfigError(f"{root}: is given twice. Leave one out.")
    named = zip(_names(known), roots, strict=True)
    rows = [{"run": name, **columns(Run.open(root))} for name, root in named]
    text = table(rows)
    files.write_text(output / "compare.md", text + "\n")
    names = list(dict.fromkeys(key for row in rows for key in row))
    files.write_csv(output / "compare.csv", names, ([row.get(n) for n in names] for row in rows))
    _draw(output / "compare.png", rows)
    return text


def columns(run: Run) -> dict[str, Any]:
    """What there is to compare of a run; None: unknown, or not done. Scores are in 0..1.

    Raises:
        StageError: it has not been evaluated, or with other settings.
    """
    run.require("evaluate")
    report = reports.read(run)
    pretext, times = report["pretext"], report["wall_time_s"]
    sides = pretext.get("features") or {}
    memory = [run.record(stage).result.get("peak_memory_mib") for stage in times]
    found: dict[str, Any] = {
        **{key: report[key] for key in _IMAGES},
        "seed": report["seed"],
        "pretext": None if times["pretext"] is None else run.config.pretext.name,
        "epochs": run.config.pretext.epochs,
        "neighbor_features": pretext.get("neighbor_features"),
        "knn_k": run.config.evaluate.knn_k,
        # A report from before both were scored says less, and by what neighbours are found by.
        "knn_acc": None if sides else pretext["knn_acc"],
    }
    for side in ("backbone", "projection"):
        for name, key in (("knn", "knn_acc"), ("linear", "linear_probe_acc")):
            found[f"{name}_{side}"] = sides.get(side, {}).get(key)
        by_k = sides.get(side, {}).get("knn_acc_by_k") or {}
        found |= {f"knn_{side}_k{k}": accuracy for k, accuracy in by_k.items()}
    if not sides:
        found["linear_backbone"] = pretext.get("linear_probe_acc")
    found["neighbor_purity"] = pretext["neighbor_purity"]
    found["kmeans_acc"] = (report["kmeans_features"] or {}).get("acc")
    for stage in CLUSTERINGS:
        found[f"{stage}_acc"] = (report[stage] or {}).get("acc")
    found["kept"] = report.get("kept")
    found |= {f"{stage}_s": seconds for stage, seconds in times.items()}
    found["total_s"] = round(sum(s for s in times.values() if s is not None), 2)
    found["peak_memory_mib"] = max((m for m in memory if m is not None), default=None)
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, with what is to be read below them."""
    shown = _shown(rows)
    header = ["run", "pretext", "epochs", *shown.values(), "pretext time", "time", "memory"]
    lines = []
    for row in rows:
        seconds, memory = row["pretext_s"], row["peak_memory_mib"]
        lines.append(
            [
                row["run"],
                row["pretext"] or UNKNOWN,
                str(row["epochs"]),
                *(_cell(row, key) for key in shown),
                UNKNOWN if seconds is None else _minutes(seconds),
                _minutes(row["total_s"]),
                UNKNOWN if memory is None else f"{memory / 1024:.1f} GiB",
            ]
        )
    return "\n\n".join([markdown(header, lines), *_notes(rows)])


def _by_k(row: Row, key: str) -> dict[int, float]:
    """Of these features, kNN by the number of neighbours asked, the fewest first."""
    start = f"{key}_k"
    found = {int(k.removeprefix(start)): row[k] for k in row if k.startswith(start)}
    return dict(sorted(found.items()))


def _cell(row: Row, key: str) -> str:
    """A score in percent; those of kNN by the number of neighbours, where they are known."""
    return " / ".join(map(percent, _by_k(row, key).values())) or percent(row[key])


def _shown(rows: Sequence[Row]) -> dict[str, str]:
    """The scores that a run has, and what they are called."""
    return {k: title for k, title in _SCORES.items() if any(row[k] is not None for row in rows)}


def _notes(rows: Sequence[Row]) -> list[str]:
    asked = {
        " / ".join(map(str, _by_k(row, "knn_backbone") or _by_k(row, "knn_projection")))
        or str(row["knn_k"])
        for row in rows
    }
    ks = " or ".join(sorted(asked))
    notes = [
        f"In percent. kNN asks {ks} neighbours; purity is that of the mined ones, and k-means is "
        "on what they were mined by. Times are those on the machines of the runs; memory is the "
        "most that the process held, where that was recorded."
    ]
    if any(row["knn_acc"] is not None for row in rows):
        notes.append("kNN alone: by what neighbours are found by, in older reports.")
    if not _shown(rows):
        notes.append("The images have no labels, so that there are no scores.")
    first, *others = rows
    for row in others:
        if any(row[key] != first[key] for key in _IMAGES):
            said = [f"{r['run']} on {r['num_images']:,} of {r['data']}, {r['split']}" for r in
                    (first, row)]  # fmt: skip
            notes.append(f"Not scored on the same images: {'; '.join(said)}.")
    last = CLUSTERINGS[-1]
    kept = [r["run"] for r in rows if r["kept"] == CLUSTERINGS[0] and r[f"{last}_s"] is not None]
    if kept:
        notes.append(f"Self-label did harm, and SCAN was kept: {', '.join(kept)}.")
    return notes


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min"


def _names(roots: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders above as tell them apart."""
    parts = 1
    while len({root.parts[-parts:] for root in roots}) < len(roots):
        parts += 1
    return ["/".join(root.parts[-parts:]) for root in roots]


def _draw(path: Path, rows: Sequence[Row]) -> None:
    """A line for each run over its scores, in the order of the stages."""
    shown = _shown(rows)
    if not shown:
        path.unlink(missing_ok=True)
        return
    values = {
        row["run"]: [math.nan if row[key] is None else 100 * row[key] for key in shown]
        for row in rows
    }
    charts.series(
        path,
        [*shown.values()],
        {name: (line, None) for name, line in values.items()},
        xlabel="from the features to the clusters",
        ylabel="%",
        title=_headline(rows, *list(shown.items())[-1]),
    )


def _headline(rows: Sequence[Row], key: str, name: str) -> str:
    """Which run is best at the end."""
    known = [row for row in rows if row[key] is not None]
    best = max(known, key=lambda row: row[key])
    return f"{len(rows)} runs compared; the highest {name} is that of {best['run']}"
