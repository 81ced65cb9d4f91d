"""Line and bar charts of a result, and the look that they share with `pictures.py`.

Every chart takes numbers, writes one PNG (and the folders above it) and returns nothing. Figures
are built from `matplotlib.figure.Figure`, without pyplot: no display and no state that outlives a
call. The same input gives the same bytes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scan_tf.errors import DataError
from scan_tf.evaluation import headlines
from scan_tf.evaluation.colours import BLUE, RED, palette
from scan_tf.storage.files import room

DPI = 120
# Of a headline: its least size, and how many of its characters are in an inch of the figure.
_HEADLINE, _PER_INCH = 10.5, 10.6
_MARKERS = "osD^vPX*<>"


def series(
    path: str | Path,
    x: Sequence[float] | Sequence[str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float] | None]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
    level: tuple[str, float] | None = None,
) -> None:
    """Draw a line with markers for each series, its deviation as a shaded band.

    Args:
        path: the PNG.
        x: where the n values stand; texts are set side by side in their order.
        series: name -> (n means, n deviations or None); what is not finite is left out.
        xlabel: name of the x axis.
        ylabel: name of the y axis.
        title: above the chart.
        log_x: logarithmic x axis.
        level: name and height of a dashed line to compare with, such as chance.

    Raises:
        DataError: a series is not of n values, or `log_x` with texts or with x <= 0.
    """
    texts = any(isinstance(value, str) for value in x)
    if log_x and (texts or min(x, default=1) <= 0):  # type: ignore[operator]
        raise DataError(f"x: a logarithmic axis needs numbers above 0, got {list(x)}.")
    places = np.arange(len(x)) if texts else np.asarray(x, float)
    figure = Figure(figsize=(7, 4.3), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, (means, deviations)) in enumerate(series.items()):
        values = _matching(f"series '{name}'", means, places)
        look = {"color": palette(max(10, len(series)))[number], "zorder": 3}
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(places, values, marker=marker, markersize=5, label=one_line(name, 40), **look)
        if deviations is not None:
            spread = _matching(f"deviations of '{name}'", deviations, places)
            look |= {"alpha": 0.18, "linewidth": 0, "zorder": 2}
            axes.fill_between(places, values - spread, values + spread, **look)
    if level is not None:
        axes.axhline(level[1], color="black", linestyle="--", linewidth=1, label=level[0])
    if log_x:
        axes.set_xscale("log")
    if texts:
        axes.set_xticks(places, [one_line(str(value), 30) for value in x])
        if max(len(str(value)) for value in x) > 8:
            axes.tick_params(axis="x", rotation=20)
    elif len(x) <= 12:
        axes.set_xticks(places, [f"{value:g}" for value in places])
        axes.minorticks_off()
    headline(figure, title)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    legend_below(figure, axes)
    plain(axes)
    save(figure, path)


def training_curves(path: str | Path, stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw every metric of every stage over the epochs, one row of panels for each stage.

    `stages` maps a stage's name to the rows of its `metrics.jsonl`: `step`, `epoch` and numbers
    such as `loss`, of which a row may lack some. What is not finite is left out.
    """
    tables = {stage: _columns(rows) for stage, rows in stages.items()}
    tables = {stage: table for stage, table in tables.items() if table}
    tall, wide = max(1, len(tables)), max(map(len, tables.values()), default=1)
    size = max(5.0, 3.1 * wide), 0.5 + 2.5 * tall
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    losses = {stage: table.get("loss", []) for stage, table in tables.items()}
    said = headlines.curves(losses) if tables else "Training curves: nothing was logged yet"
    headline(figure, said)
    for row, (stage, table) in enumerate(tables.items()):
        for column, (name, points) in enumerate(table.items(), 1):
            axes = figure.add_subplot(tall, wide, row * wide + column)
            # Markers, because a single point draws no line.
            marker = "o" if len(points) < 30 else ""
            axes.plot(*zip(*points, strict=True), color=BLUE, marker=marker, markersize=3)
            axes.set_title(f"{stage}: {one_line(name, 28)}", fontsize=10)
            axes.set_xlabel("epoch", fontsize=9)
            axes.ticklabel_format(axis="y", scilimits=(-3, 5), useOffset=False)
            axes.tick_params(labelsize=8)
            plain(axes)
    save(figure, path)


def cluster_sizes(
    path: str | Path,
    sizes: np.ndarray,
    names: Sequence[str],
    colours: np.ndarray | None = None,
) -> None:
    """Draw the number of images in each cluster.

    Args:
        path: the PNG.
        sizes: int [C].
        names: of the C clusters.
        colours: float [C,3] of the bars; None: all are blue.
    """
    sizes, count = np.asarray(sizes), len(sizes)
    each, font = (0.26, 8) if count <= 40 else (0.15, 6)
    figure = Figure(figsize=(7.5, 1.4 + each * max(3, count)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(count), sizes, color=BLUE if colours is None else colours, height=0.75)
    axes.bar_label(bars, [f"{n:,}" if n else "0: empty" for n in sizes], padding=3, fontsize=font)
    equal = sizes.sum() / max(1, count)
    axes.axvline(equal, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(count), [one_line(name, 30) for name in names], fontsize=font)
    axes.set(xlim=(0, max(1, 1.12 * sizes.max(initial=0))), ylim=(max(1, count) - 0.4, -0.6))
    headline(figure, headlines.sizes(sizes))
    axes.set_xlabel(f"images (dashed: equal shares, {equal:.0f} each)")
    plain(axes, "x")
    save(figure, path)


def confidence_histogram(path: str | Path, confidences: np.ndarray) -> None:
    """Draw how sure the assignments are: `confidences` float [n] in 0..1, highest probability."""
    figure = Figure(figsize=(7, 4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(confidences, bins=50, range=(0, 1), color=BLUE, edgecolor="white", linewidth=0.4)
    if len(confidences):
        median = np.median(confidences)
        axes.axvline(median, color=RED, linewidth=1.4, label=f"median: {median:.3f}")
    legend_below(figure, axes)
    headline(figure, headlines.confidence(np.asarray(confidences)))
    axes.set(ylabel=f"of {len(confidences):,} images", xlim=(0, 1))
    axes.set_xlabel("probability of the chosen cluster")
    plain(axes)
    save(figure, path)


def reliability(
    path: str | Path, stages: Mapping[str, tuple[float, Sequence[Mapping[str, Any]]]]
) -> None:
    """Draw accuracy against confidence, and below it how many images have that confidence.

    `stages` maps the name of a clustering to its ECE and the bins that `calibration.calibration`
    gives. On the dashed diagonal confidence is as high as accuracy.
    """
    figure = Figure(figsize=(7, 6.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
    for number, (name, (ece, bins)) in enumerate(stages.items()):
        colour, offset = palette(10)[number % 10], number / len(stages)
        filled = [row for row in bins if row["count"]]
        points = [(row["confidence"], row["accuracy"]) for row in filled]
        label = f"{one_line(name, 30)}: ECE {100 * ece:.1f} %"
        marker = _MARKERS[number % len(_MARKERS)]
        above.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5,
                   label=label)  # fmt: skip
        total = sum(row["count"] for row in bins)
        widths = [0.86 * (row["high"] - row["low"]) for row in bins]
        lows = [r["low"] + w * (0.08 + offset) for r, w in zip(bins, widths, strict=True)]
        below.bar(lows, [100 * row["count"] / total for row in bins], align="edge", color=colour,
                  width=[width / len(stages) for width in widths])  # fmt: skip
    name, (_, bins) = list(stages.items())[-1]
    headline(figure, headlines.reliability(name, bins))
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    legend_below(figure, above)
    below.set(xlabel="probability of the chosen cluster", ylabel="% of the images")
    plain(above)
    plain(below, "y")
    save(figure, path)


def one_line(text: str, limit: int) -> str:
    """`limit` characters of a name, free of what folder names may hold: formulas, line breaks."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return (text if len(text) <= limit else text[: limit - 1] + "…").replace("$", r"\$")


def headline(figure: Figure, text: str) -> None:
    """Put what a picture says above it, from its left edge, in as many lines as that takes."""
    wide = figure.get_figwidth()
    size = min(18.0, max(_HEADLINE, 0.9 * wide))
    width = int(wide * _PER_INCH * _HEADLINE / size)
    lines = [one_line(line, width) for line in textwrap.wrap(one_line(text, 240), width)]
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=size, fontweight="bold")


def legend_below(figure: Figure, axes: Axes) -> None:
    """Say what the colours of a panel are below it, where nothing is covered."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        fit = int(figure.get_figwidth() * 12 / (8 + max(map(len, names))))
        columns = max(1, min(len(names), fit))
        figure.legend(
            handles, names, loc="outside lower center", ncols=columns, fontsize=9, frameon=False
        )


def plain(axes: Axes, grid: Any = "both") -> None:
    """Leave out of a panel what says nothing: two spines, and a strong grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, and the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with room(Path(path)):
        # Without matplotlib's version in it, the file changes only with its content.
        figure.savefig(path, format="png", metadata={"Software": None})


def _matching(name: str, values: Sequence[float], places: np.ndarray) -> np.ndarray:
    """The values as float [n], None as NaN, which matplotlib leaves out."""
    array = np.asarray(values, float)
    if array.shape != places.shape:
        raise DataError(f"{name}: {array.size} values for {len(places)} places on the x axis.")
    return array


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Metric name -> its finite (epoch, value), `loss` first."""
    table: dict[str, list[tuple[float, float]]] = {"loss": []}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, (int, float)) and math.isfinite(value)
            if number and name not in ("step", "epoch"):
                table.setdefault(name, []).append((row["epoch"], value))
    return {name: points for name, points in table.items() if points}
