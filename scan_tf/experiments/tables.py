"""Scores of many runs side by side: CSV, Markdown tables of means and deviations, a chart.

A row is a dictionary of one run: its settings by dotted key, `seed`, `num_clusters`, the scores of
each stage such as `scan_acc` (None where unknown), `wall_time_s` and `error`. Deviations are those
of the population: the divisor is the number of seeds.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scan_tf.evaluation import charts
from scan_tf.evaluation.text import UNKNOWN, markdown, number, percent
from scan_tf.experiments.variants import as_text
from scan_tf.pipeline.stage import labels
from scan_tf.storage import files

Row = Mapping[str, Any]
TITLES = labels()
MEASURES = {
    "acc": "ACC",
    "nmi": "NMI",
    "ari": "ARI",
    "mean_confidence": "confidence",
    "num_clusters_used": "clusters used",
}
_BASELINES = {
    "kmeans_pixels": "k-means on pixels",
    "kmeans_features": "k-means on pretext features",
}
_NEEDS_LABELS = ("acc", "nmi", "ari")
# Above this ratio of the largest value to the smallest an axis of the chart is logarithmic.
_LOG_RATIO = 30


def scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that come from a report; `{}`: a run without one."""
    columns = {"num_clusters": report.get("num_clusters")}
    for stage, measure in itertools.product(TITLES, MEASURES):
        columns[f"{stage}_{measure}"] = (report.get(stage) or {}).get(measure)
    return columns


def summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and deviation of the values that are known (both None: there is none), and all."""
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.pstdev(known) if known else None,
        "values": list(values),
    }


def write_csv(path: Path, rows: Sequence[Row], axes: Iterable[str]) -> None:
    """Write every row, with the settings `axes` as they are typed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(dict(row) | {key: as_text(row[key]) for key in axes})
    files.write_text(path, text.getvalue())


def by_point(rows: Sequence[Row], axes: Sequence[str], parent: Mapping[str, Any] | None) -> str:
    """A Markdown table with a line for each combination of settings: both stages, over its seeds.

    Args:
        rows: of the runs.
        axes: the settings in which the points differ.
        parent: report with the k-means to compare with; None: there is none.
    """
    measures = _measures(rows)
    columns = list(itertools.product(_scored(rows), measures))
    header = [*axes, "seeds", *(f"{TITLES[stage]} {MEASURES[m]}" for stage, m in columns)]
    lines = []
    for point in _groups(rows, axes):
        scores = (_cell([row[f"{stage}_{m}"] for row in point], m) for stage, m in columns)
        scored = sum(row["scan_num_clusters_used"] is not None for row in point)
        count = str(scored) if scored == len(point) else f"{scored} of {len(point)}"
        lines.append([*(as_text(point[0][key]) for key in axes), count, *scores])
    notes = []
    for name, *cells in _baselines(parent, measures):
        found = (f"{MEASURES[m]} {cell}" for m, cell in zip(measures, cells, strict=True))
        notes.append(f"{name}: {', '.join(found)}")
    return "\n".join([markdown(header, lines), *_notes(rows, axes, notes)])


def by_stage(rows: Sequence[Row], parent: Mapping[str, Any] | None) -> str:
    """A Markdown table with a line for each stage, over all rows, below k-means where known."""
    measures = _measures(rows)
    lines = _baselines(parent, measures)
    for stage, title in _scored(rows).items():
        lines.append([title, *(_cell([row[f"{stage}_{m}"] for row in rows], m) for m in measures)])
    header = [f"over {len(rows)} seeds", *(MEASURES[m] for m in measures)]
    return "\n".join([markdown(header, lines), *_notes(rows, [], [])])


def draw(
    path: Path, rows: Sequence[Row], axes: Sequence[str], parent: Mapping[str, Any] | None
) -> None:
    """Draw both stages against the first axis of numbers, a line for each value of the others.

    Shows ACC, with the k-means of `parent`, or without labels the confidence and the share of
    clusters in use. All in percent.
    """
    numbers = [key for key in axes if all(_is_number(row[key]) for row in rows)]
    key = [*numbers, *axes][0]
    places: list[Any] = list(dict.fromkeys(as_text(row[key]) for row in rows))
    if numbers:
        places = sorted({row[key] for row in rows})
    known, level = "acc" in _measures(rows), None
    if parent and parent["kmeans_features"] and known:
        level = ("k-means on pretext features", 100 * parent["kmeans_features"]["acc"])
    others = [other for other in axes if other != key]
    series: dict[str, Any] = {}
    for measure in ["acc"] if known else ["mean_confidence", "num_clusters_used"]:
        for name, line, stage in _lines(rows, others):
            points = [[row for row in line if _is_at(row[key], place)] for place in places]
            found = [summary([_in_percent(r, stage, measure) for r in point]) for point in points]
            if any(s["mean"] is not None for s in found):
                means, deviations = ([_or_nan(s[k]) for s in found] for k in ("mean", "std"))
                repeated = len({row["seed"] for row in rows}) > 1
                title = name if known else f"{name}, {MEASURES[measure]}"
                series[title] = means, deviations if repeated else None
    charts.series(
        path,
        places,
        series,
        xlabel=key,
        ylabel="ACC, %" if known else "%",
        title=_headline(series, places, " and ".join(axes), key),
        log_x=bool(numbers) and places[0] > 0 and places[-1] / places[0] >= _LOG_RATIO,
        level=level,
    )


def _headline(series: Mapping[str, Any], places: Sequence[Any], axes: str, key: str) -> str:
    """Where the highest mean of the first measure stands."""
    points = [
        (mean, name, place)
        for name, (means, _) in series.items()
        for mean, place in zip(means, places, strict=True)
        if math.isfinite(mean) and not name.endswith(MEASURES["num_clusters_used"])
    ]
    if not points:
        return axes
    mean, name, place = max(points, key=lambda point: point[0])
    return f"{axes}: highest at {key}={as_text(place)}, {mean:.1f} % ({name})"


def _lines(rows: Sequence[Row], axes: Sequence[str]) -> list[tuple[str, list[Row], str]]:
    """Name, rows and stage of each line of the chart."""
    lines = []
    for stage, title in TITLES.items():
        # What self-label is told is nothing to SCAN.
        own = [key for key in axes if stage != "scan" or not key.startswith("selflabel.")]
        for line in _groups(rows, own):
            name = ", ".join([title, *(f"{key}={as_text(line[0][key])}" for key in own)])
            lines.append((name, line, stage))
    return lines


def _measures(rows: Sequence[Row]) -> list[str]:
    """What a table shows: scores where there are labels, else how sure the clusters are."""
    unknown = any(r["scan_acc"] is None and r["scan_mean_confidence"] is not None for r in rows)
    return [*(["mean_confidence"] if unknown else _NEEDS_LABELS), "num_clusters_used"]


def _scored(rows: Sequence[Row]) -> dict[str, str]:
    """The stages that were scored, with their names."""
    return {
        stage: title
        for stage, title in TITLES.items()
        if any(row[f"{stage}_num_clusters_used"] is not None for row in rows)
    }


def _groups(rows: Sequence[Row], keys: Sequence[str]) -> list[list[Row]]:
    """The rows with the same settings together, in the order of their first."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(as_text(row[key]) for key in keys), []).append(row)
    return [*groups.values()]


def _cell(values: Sequence[float | None], measure: str) -> str:
    found = summary(values)
    if found["mean"] is None:
        return UNKNOWN
    deviation = found["std"] if sum(v is not None for v in values) > 1 else None
    return _text(found["mean"], deviation, measure)


def _baselines(parent: Mapping[str, Any] | None, measures: Sequence[str]) -> list[list[str]]:
    """A name and a cell for each measure, of both k-means; none without labels."""
    lines = []
    for title, found in [(t, parent[key]) for key, t in _BASELINES.items()] if parent else []:
        if found is None or found["acc"] is None:
            continue  # nothing was evaluated, or there are no labels
        cells = []
        for measure in measures:
            deviation = found[f"{measure}_std"] if found["restarts"] > 1 else None
            cells.append(_text(found[measure], deviation, measure))
        lines.append([title, *cells])
    return lines


def _text(mean: float, deviation: float | None, measure: str) -> str:
    """Percent, but for the number of clusters."""
    return (number if measure == "num_clusters_used" else percent)(mean, deviation)


def _notes(rows: Sequence[Row], axes: Sequence[str], notes: Sequence[str]) -> list[str]:
    """What is to be read below a table: the unit, the notes, and which runs failed."""
    unit = (
        "In percent, but for the clusters. ± is the deviation over the seeds (divisor: their "
        "number), of k-means over its restarts."
    )
    failed = []
    for row in rows:
        if row["error"]:
            settings = [*(f"{key}={as_text(row[key])}" for key in axes), f"seed {row['seed']}"]
            failed.append(f"failed: {' '.join(settings)}: {row['error']}")
    return ["", unit, *(f"\n{note}" for note in [*notes, *failed])]


def _in_percent(row: Row, stage: str, measure: str) -> float | None:
    value = row[f"{stage}_{measure}"]
    if value is None:
        return None
    return 100 * value / (row["num_clusters"] if measure == "num_clusters_used" else 1)


def _is_at(value: Any, place: Any) -> bool:
    return (as_text(value) if isinstance(place, str) else value) == place


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
