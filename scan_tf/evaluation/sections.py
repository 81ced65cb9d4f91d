"""The sections of the page: plain values in, HTML out. Every text is escaped here."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from scan_tf.evaluation import svg
from scan_tf.evaluation.page_data import PageData, StageFacts

# What the scores of the report are called, and whether they are percentages.
_SCORES = {
    "acc": ("ACC", True),
    "nmi": ("NMI", True),
    "ari": ("ARI", True),
    "top5": ("top 5", True),
    "num_clusters_used": ("clusters used", False),
    "mean_confidence": ("mean confidence", True),
    "ece": ("calibration error", True),
    "silhouette": ("silhouette", False),
}
# Larger confusion matrices have no numbers in their cells.
_MOST_NUMBERED = 20
# Metrics of a row that are places on the axis.
_AXES = ("step", "epoch")


def text(value: object) -> str:
    """Escaped, and without what UTF-8 cannot hold: bytes of a file name that is not UTF-8."""
    return escape(str(value).encode("utf-8", "backslashreplace").decode("utf-8"))


def section(name: str, title: str, inner: str, note: str = "") -> str:
    """A section with its heading; nothing where there is nothing in it."""
    if not inner:
        return ""
    said = f'<p class="note">{note}</p>' if note else ""
    return f'<section id="{name}"><h2>{title}</h2>{said}{inner}</section>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="{kind}">{inner}</table></div>'


def share(value: float | None, digits: int = 1) -> str:
    """0..1 in percent."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}\u00a0%"


def cards(facts: Mapping[str, str]) -> str:
    """The figures that matter most, large."""
    items = (f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
             for name, value in facts.items())  # fmt: skip
    return f'<dl class="cards">{"".join(items)}</dl>'


def remarks(sentences: Sequence[str]) -> str:
    """Warnings in words."""
    if not sentences:
        return ""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<aside class="warnings" aria-label="Warnings"><ul>{items}</ul></aside>'


def overview(
    data: PageData, sizes: np.ndarray, sure: np.ndarray, classes: Sequence[tuple[str, float]] | None
) -> str:
    """A row for each cluster.

    Args:
        data: of the page.
        sizes: int [C].
        sure: mean confidence float [C], NaN for empty clusters.
        classes: the commonest class of each cluster and its share; None without labels.
    """
    header = ["Cluster", "Images", "Share", "Mean confidence"]
    header += ["Commonest class", "Its share"] if classes else []
    longest = max(1, int(sizes.max()))
    rows = []
    for cluster, size in enumerate(sizes.tolist()):
        bar = f'<span class="bar"><i style="width:{100 * size / longest:.1f}%"></i></span>'
        row = [
            f'<a href="#c{cluster}">{text(data.cluster_name(cluster))}</a>',
            f"{bar}{size:,}",
            share(size / len(data.clusters)),
            share(float(sure[cluster])),
        ]
        if classes:
            name, purity = classes[cluster]
            row += [text(name), share(purity)]
        rows.append(row)
    return table(header, rows, "sortable")


def gallery(
    data: PageData, cluster: int, summary: str, kinds: Mapping[str, Sequence[tuple[int, str, str]]],
    more: int,
) -> str:  # fmt: skip
    """A cluster and its images.

    Args:
        data: of the page.
        cluster: its number.
        summary: what is said of it, HTML.
        kinds: caption -> (place on the page, name, image in base64).
        more: how many images a button shows; 0: there is no button.
    """

    def below(path: str) -> str:
        stem = posixpath.splitext(posixpath.basename(path))[0]
        return f"<small><bdi>{text(stem)}</bdi></small>" if data.names else ""

    name, figures = text(data.cluster_name(cluster)), []
    for caption, pictures in kinds.items():
        if pictures:
            inner = "".join(
                f'<button data-i="{place}"><img src="data:image/webp;base64,{pixels}" '
                f'alt="{text(of)}" loading="lazy">{below(of)}</button>'
                for place, of, pixels in pictures
            )
            group = f'<div class="strip" role="group" aria-label="{name}: {caption}">{inner}</div>'
            figures.append(f"<figure><figcaption>{caption}</figcaption>{group}</figure>")
    number = f" <small>cluster {cluster}</small>" if name != f"Cluster {cluster}" else ""
    every = f'<button class="all" data-cluster="{cluster}">Show all {more:,}</button>'
    return (
        f'<article class="cluster" id="c{cluster}"><header><h3>{name}{number}</h3>'
        f"<p>{summary}</p>{every if more else ''}</header>"
        f'<div class="kinds">{"".join(figures)}</div></article>'
    )


def twins(groups: Iterable[tuple[str, Sequence[tuple[int, str, str]]]]) -> str:
    """Images that belong together: what is said of them, and (place, name, image in base64)."""
    parts = []
    for said, pictures in groups:
        inner = "".join(
            f'<li><button data-i="{place}"><img src="data:image/webp;base64,{pixels}" '
            f'alt="{text(name)}" loading="lazy"></button><bdi>{text(name)}</bdi></li>'
            for place, name, pixels in pictures
        )
        parts.append(f'<div class="twins"><p>{text(said)}</p><ul>{inner}</ul></div>')
    return f'<div class="pairs">{"".join(parts)}</div>' if parts else ""


def scores(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each clustering of which more is known than how many clusters it has.

    What none of them has is left out.
    """
    flat = {name: {"ece": (row.get("calibration") or {}).get("ece"), **row}
            for name, row in found.items()}  # fmt: skip
    known = [key for key in _SCORES if any(row.get(key) is not None for row in flat.values())]
    if not known:
        return ""

    def cell(row: Mapping[str, Any], key: str) -> str:
        value = row.get(key)
        if value is None:
            return "–"
        return share(value) if _SCORES[key][1] else f"{value:.3g}"

    telling = [key for key in known if key != "num_clusters_used"]
    told = {name: row for name, row in flat.items()
            if any(row.get(key) is not None for key in telling)}  # fmt: skip
    rows = [[text(name), *(cell(row, key) for key in known)] for name, row in told.items()]
    return table(["Clustering", *(_SCORES[key][0] for key in known)], rows, "numbers")


def features(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each kind of features of the pretext; nothing where none was scored."""
    if not found:
        return ""
    k = next(iter(found.values()))["knn_k"]
    rows = [
        [f"{text(name)} ({row['dim']:,})",
         *(share(row[key]) for key in ("knn_acc", "linear_probe_acc", "kmeans_acc"))]
        for name, row in found.items()
    ]  # fmt: skip
    return table(["Features", f"kNN, K {k}", "linear probe", "k-means"], rows, "numbers")


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """Images of each true class (rows) by the class of their cluster (columns), int [C,C]."""
    names = [text(name) for name in class_names]
    parts = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = []
    for name, counts, shares in zip(names, matrix.tolist(), parts.tolist(), strict=True):
        row = [name]
        for column, count, part in zip(names, counts, shares, strict=True):
            shown = f"{count:,}" if count and len(names) <= _MOST_NUMBERED else ""
            strong = " strong" if part > 0.5 else ""
            hint = f'title="{name} as {column}: {count:,}"' if count else ""
            row.append(f'<span class="heat{strong}" style="--v:{part:.2f}" {hint}>{shown}</span>')
        rows.append(row)
    upright = [f"<span>{name}</span>" for name in names]
    dense = " dense" if len(names) > _MOST_NUMBERED else ""
    dense += " short" if max(map(len, class_names)) <= 3 else ""
    return table(["true class", *upright], rows, f"matrix{dense}")


def trust(confidence: np.ndarray, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Charts of the confidence: how it is spread and, with labels, whether it is deserved."""
    edges = np.linspace(0, 1, 51)
    counts = np.histogram(confidence.clip(0, 1), edges)[0].tolist()
    charts = {
        "How sure the assignments are": svg.columns(
            "Histogram of the confidence", edges.tolist(), counts, xlabel="confidence",
            ylabel="images",
        )
    }  # fmt: skip
    bins = {name: (row.get("calibration") or {}).get("bins", ()) for name, row in found.items()}
    points = {
        name: [(b["confidence"], b["accuracy"]) for b in part if b["accuracy"] is not None]
        for name, part in bins.items()
    }
    if any(points.values()):
        charts["Is a confidence of 0.8 right in 80 % of the cases?"] = svg.lines(
            "Accuracy against confidence", {k: v for k, v in points.items() if v},
            xlabel="confidence (dashed: calibrated)", ylabel="accuracy", x_range=(0, 1),
            y_range=(0, 1), diagonal=True,
        )  # fmt: skip
    kept = {name: row["coverage"] for name, row in found.items() if row.get("coverage")}
    known = any(point["accuracy"] is not None for part in kept.values() for point in part)
    if kept:
        value = "accuracy" if known else "threshold"
        charts["Leaving out unsure images"] = svg.lines(
            "Leaving out unsure images",
            {name: [(100 * p["coverage"], p[value]) for p in part if p[value] is not None]
             for name, part in kept.items()},
            xlabel="most confident images that are kept, %",
            ylabel="their accuracy" if known else "lowest confidence",
        )  # fmt: skip
    return charts_of(charts)


def stages(facts: Sequence[StageFacts]) -> str:
    """What ran, how long it took, and the curves of what was trained."""
    if not facts:
        return ""
    rows = [[text(s.name), text(s.title), _duration(s.seconds)] for s in facts]
    parts = [table(["Stage", "What it does", "Time"], rows)]
    for stage in facts:
        charts = {
            name: svg.lines(f"{stage.name}: {name}", {name: points}, xlabel="epoch")
            for name, points in _by_metric(stage.rows).items()
        }
        if charts:
            parts.append(f"<h3>{text(stage.name)}</h3>{charts_of(charts)}")
    return "".join(parts)


def settings(yaml: str, environment: Mapping[str, Any], skipped: Sequence[str]) -> str:
    """How it was made, folded up."""
    parts = {}
    if yaml:
        parts["Settings"] = f'<pre tabindex="0">{text(yaml)}</pre>'
    if environment:
        rows = [[text(name), text(_plain(value))] for name, value in environment.items()]
        parts["Versions and hardware"] = table(["What", "Which"], rows)
    if skipped:
        items = "".join(f"<li><bdi>{text(path)}</bdi></li>" for path in skipped)
        name = f"Files that could not be read ({len(skipped):,})"
        parts[name] = f'<ul class="paths">{items}</ul>'
    return "".join(
        f"<details><summary>{name}</summary>{inner}</details>" for name, inner in parts.items()
    )


def charts_of(charts: Mapping[str, str]) -> str:
    """Charts with their titles, side by side."""
    figures = (f"<figure><figcaption>{text(name)}</figcaption>{chart}</figure>"
               for name, chart in charts.items())  # fmt: skip
    return f'<div class="charts">{"".join(figures)}</div>'


def _by_metric(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Metric -> its (epoch, value); `loss` first."""
    found: dict[str, list[tuple[float, float]]] = {"loss": []}
    for row in rows:
        for name, value in row.items():
            if name not in _AXES and isinstance(value, (int, float)):
                found.setdefault(name, []).append((row["epoch"], float(value)))
    return {name: points for name, points in found.items() if points}


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _plain(value: Any) -> str:
    """A value of JSON in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "unknown" if value is None else str(value)
