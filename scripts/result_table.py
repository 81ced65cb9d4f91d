"""The tables of results in README.md and docs/results.md, from the folder `results/` alone.

Each folder that `publish.add` wrote gives a row and a note, and `results/published.json` the rows
of the paper for the same data. Nothing in the table is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scan_tf.errors import DataError
from scan_tf.evaluation.text import UNKNOWN, markdown, number, percent
from scan_tf.pipeline.stage import CLUSTERINGS, OUTPUTS, STAGES

# Around the whole table with its notes, and around its rows alone.
START, END = "<!-- results:start -->", "<!-- results:end -->"
ROWS_START, ROWS_END = "<!-- results:rows:start -->", "<!-- results:rows:end -->"
_NOTES = "docs/results.md"
_MEASURED = [s for s in STAGES if s not in OUTPUTS]  # evaluating is no part of the method
_CLUSTERINGS = ("kmeans_features", *CLUSTERINGS)
_SCORES = ("acc", "nmi", "ari")
_NAMES = {"cifar10": "CIFAR-10", "cifar20": "CIFAR-20", "stl10": "STL-10"}
_HEADER = ("data", "config", "kNN", "purity", "k-means", "SCAN", "+ self-label", "minutes", "note")
_LEGEND = (
    "In percent: accuracy of the weighted kNN classifier on the pretext's features, share of the "
    "nearest neighbours with the image's own label, and ACC / NMI / ARI after each clustering; "
    "k-means runs on the pretext's features. ± is the deviation over the seeds that the note "
    "names, for k-means without several pretexts over its restarts. Minutes are those of pretext, "
    "neighbours, SCAN and self-label."
)


def table(results: Path, *, top: str = "") -> str:
    """The Markdown of all results: rows by data set, the paper's below ours, then the notes.

    Args:
        results: the folder of all results.
        top: what leads from the text to the folder above `results`, such as "../".

    Raises:
        DataError: a file is missing or damaged.
    """
    lines, legend, notes = _parts(results, top, "")
    return "\n".join([lines, "", legend, "", *notes])


def rows(results: Path) -> str:
    """The rows alone, for the README; the numbers lead to the notes. Raises as `table` does."""
    return _parts(results, "", f"({_NOTES})")[0]


def _parts(results: Path, top: str, notes_link: str) -> tuple[str, str, list[str]]:
    """The table, the legend, the notes."""
    folders = [path.parent for path in sorted(results.glob("*/environment.json"))]
    entries = [_Entry(folder) for folder in folders]
    published = _json(results / "published.json")
    found, notes = list[tuple[str, ...]](), list[str]()
    sources: dict[str, None] = {}
    for data in dict.fromkeys(entry.report["data"] for entry in entries):
        for entry in (e for e in entries if e.report["data"] == data):
            notes.append(f"{len(notes) + 1}. {entry.note()}")
            found.append((*entry.cells(top), f"[{len(notes)}]{notes_link}"))
        for row in (p for p in published if p["data"] == data):
            cells = [_published(row.get(k, {})) for k in ("kmeans", "scan", "selflabel")]
            first = (_NAMES.get(data, data), f"*{row['config']}*", UNKNOWN, UNKNOWN)
            found.append((*first, *cells, UNKNOWN, "*published*"))
            sources[row["source"]] = None
    legend = _LEGEND
    if sources:
        legend += f" *Published*: figures of the paper, for comparison ({'. '.join(sources)})."
    return markdown(_HEADER, found), legend, notes


def update(readme: Path, results: Path) -> bool:
    """Rewrite the part of a text between the markers; returns whether it changed.

    Raises:
        DataError: the markers are missing, or as for `table`.
    """
    before, after = _with_table(readme, results)
    if before != after:
        readme.write_text(after, encoding="utf-8")
    return before != after


def check(readme: Path, results: Path) -> None:
    """Raise DataError unless the part between the markers is what `update` would write."""
    before, after = _with_table(readme, results)
    if before != after:
        raise DataError(f"{readme}: is out of date. Run: python scripts/results.py table")


class _Entry:
    """One folder of results."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.report, self.environment = (
            _json(folder / f"{name}.json") for name in ("report", "environment")
        )
        path = folder / "scores.json"
        self.scores: dict[str, Any] = _json(path) if path.exists() else {}

    def cells(self, top: str) -> list[str]:
        """What a row says, less the number of its note."""
        name = self.report["data"]
        data = self.environment["data_note"] or _NAMES.get(name, name)
        pretext = (self._cell("pretext", (m,)) for m in ("knn_acc", "neighbor_purity"))
        clusterings = (self._cell(stage, _SCORES) for stage in _CLUSTERINGS)
        minutes = sum(self._minutes().values())
        name = self.folder.name[len("2026-01-01-") :]
        link = f"[{name}]({top}{self.folder.parent.name}/{self.folder.name})"
        if backbone := self.report.get("backbone"):
            link += f" on frozen {backbone['name']}"
        return [data, link, *pretext, *clusterings, f"{minutes:.0f}"]

    def note(self) -> str:
        """What a reader needs to judge and to repeat the row."""
        report, environment = self.report, self.environment
        parts = [
            "; ".join(f"`{command}`" for command in environment["command"]),
            f"{report['num_images']:,} images of the {report['split']} split",
            self._seeds(),
            f"epoch and head selected on: {report['selection']}",
            self._matching(),
            environment["hardware"],
            f"TensorFlow {environment['versions']['tensorflow']}, {environment['dtype']}",
            ", ".join(f"{stage} {m:.1f}" for stage, m in self._minutes().items()) + " minutes",
            f"commit {environment['commit'][:7]}",
            environment["date"],
            self._backbone(),
            environment["note"],
        ]
        return "; ".join(filter(None, parts)) + "."

    def _backbone(self) -> str:
        """How pretrained features were trained."""
        backbone = self.report.get("backbone")
        return f"features of {backbone['name']}, {backbone['trained']}" if backbone else ""

    def _matching(self) -> str:
        """Named where it is not the one to one mapping of the paper."""
        matching = self.report["scan"]["matching"]
        return "" if matching in ("hungarian", None) else f"scored by {matching}".replace("_", " ")

    def _seeds(self) -> str:
        if not self.scores:
            return f"seed {self.report['seed']}"
        values = self.scores["scan"].get("acc", {}).get("values", self.scores["seeds"])
        known = sum(value is not None for value in values)
        count = f"{known}" if known == len(values) else f"{known} of {len(values)}"
        return f"{self.scores['repeated']} repeated with {count} seeds"

    def _minutes(self) -> dict[str, float]:
        times = self.environment["wall_time_s"]
        return {stage: times[stage] / 60 for stage in _MEASURED if stage in times}

    def _cell(self, part: str, measures: tuple[str, ...]) -> str:
        if self.report[part] is None:  # a stage that was left out
            return UNKNOWN
        return " / ".join(self._score(part, measure) for measure in measures)

    def _score(self, part: str, measure: str) -> str:
        repeated = self.scores.get(part, {}).get(measure)
        if repeated:
            return percent(repeated["mean"], repeated["std"])
        scores = self.report[part]
        return percent(scores[measure], scores.get(f"{measure}_std") if measure == "acc" else None)


def _published(scores: Mapping[str, Any]) -> str:
    """A cell of the paper's figures: `[mean]` or `[mean, deviation]` of each score."""
    if not scores:
        return UNKNOWN
    found = (scores.get(measure) for measure in _SCORES)
    return " / ".join(UNKNOWN if figures is None else number(*figures) for figures in found)


def _with_table(readme: Path, results: Path) -> tuple[str, str]:
    """The text as it is, and as it should be."""
    text = readme.read_text(encoding="utf-8")
    first, last = (ROWS_START, ROWS_END) if ROWS_START in text else (START, END)
    head, start, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not start or not end:
        raise DataError(f"{readme}: expected a line '{START}' and, below it, '{END}'.")
    top = "../" if readme.resolve().parent.name == "docs" else ""
    new = rows(results) if start == ROWS_START else table(results, top=top)
    return text, f"{head}{start}\n{new}\n{end}{tail}"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read or is damaged ({error}).") from error
