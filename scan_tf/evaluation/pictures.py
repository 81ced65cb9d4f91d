"""PNG pictures of a result: confusion, prototypes, contact sheets, map of the features.

Every function takes arrays, writes one PNG (and the folders above it) and returns nothing.
Figures are built from `matplotlib.figure.Figure`, without pyplot: no display and no state that
outlives a call. The same input gives the same bytes. Line and bar charts are in `charts.py`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from scan_tf.errors import DataError
from scan_tf.evaluation import headlines
from scan_tf.evaluation.charts import DPI, headline, one_line, save
from scan_tf.evaluation.colours import matched_palette, palette

# Of more clusters the map gives numbers alone, and in smaller letters.
_NAMED = 20
# Side of an image in the mosaics, pixels, before it is rounded to a whole multiple of S.
_CELL = 104


def confusion_matrix(
    path: str | Path, matrix: np.ndarray, class_names: Sequence[str], title: str = ""
) -> None:
    """Draw how many images of each true class (rows) were put into each class (columns).

    `matrix` is int [C,C]; `matrix[i, j]` images of class i were put into class j.

    Raises:
        DataError: the matrix is not square or does not fit the names.
    """
    matrix, count = np.asarray(matrix), len(class_names)
    if matrix.shape != (count, count):
        raise DataError(f"matrix: {list(matrix.shape)} does not fit {count} class names.")
    totals = matrix.sum(axis=1)
    share = matrix / np.maximum(totals, 1)[:, None]
    side, font = (3 + 0.48 * count, 9) if count <= 20 else (min(16, 6 + 0.2 * count), 6)
    figure = Figure(figsize=(side + 2.2, side), dpi=DPI, layout="compressed")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    headline(figure, title or headlines.confusion(matrix, class_names))
    axes.set(xlabel="predicted class", ylabel="true class (share that is right)")
    names = [one_line(name, 22) for name in class_names]
    right = [f"{share[i, i]:.0%} of {n}" if n else "no images" for i, n in enumerate(totals)]
    axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), [f"{n}  ({r})" for n, r in zip(names, right, strict=True)])
    axes.tick_params(labelsize=font)
    for (row, column), value in np.ndenumerate(matrix if count <= 20 else matrix[:0]):
        if value:
            colour = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, value, ha="center", va="center", fontsize=8, color=colour)
    save(figure, path)


def prototypes(
    path: str | Path, images: Sequence[np.ndarray | None], captions: Sequence[str]
) -> None:
    """Draw one image u8 [S,S,3] for each of C clusters, None where one is empty; C captions."""
    title = f"The most typical image of each of {len(images)} clusters"
    _mosaic(path, images, captions, title)


def contact_sheet(
    path: str | Path,
    images: np.ndarray | Sequence[np.ndarray],
    captions: Sequence[str | float] | np.ndarray,
    title: str,
    *,
    columns: int | None = None,
) -> None:
    """Draw the n >= 0 images u8 [S,S,3] of one cluster; captions: n texts or n confidences.

    A text of two lines keeps them, such as a file's name and a confidence. `columns`: images in a
    row; None: so many that the sheet is somewhat wider than high.

    Raises:
        DataError: an image is of another kind, or the captions are not n.
    """
    _mosaic(path, list(images), list(captions), title, columns)


def feature_map(
    path: str | Path,
    points: np.ndarray,
    clusters: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    mapping: Sequence[int | None] | None = None,
) -> None:
    """Draw images as points, coloured by cluster and, where it is known, by true class beside it.

    Args:
        path: the PNG.
        points: float [n,2], see `embed_2d`.
        clusters: int [n].
        labels: int [n] into `class_names`; None: one panel is drawn.
        class_names: of the labels.
        names: of the C clusters; None: their numbers.
        mapping: cluster -> class, so that a cluster has the colour of its class; None: every
            cluster has a colour of its own.
    """
    panels = 1 if labels is None else 2
    figure = Figure(figsize=(7.2 * panels, 6.4), dpi=DPI, layout="constrained")
    count = len(names or mapping or ()) or clusters.max(initial=0) + 1
    numbers = [str(i) for i in range(count)]
    shown = numbers if names is None or count > _NAMED else names
    colours, right = palette(count), None
    if labels is not None and mapping is not None:
        colours = matched_palette(mapping, len(class_names))
        classes = np.array([-1 if of is None else of for of in mapping])
        right = float(np.mean(classes[clusters] == labels)) if len(labels) else None
    headline(figure, headlines.feature_map(len(points), right))
    _scatter(figure.add_subplot(1, panels, 1), points, clusters, shown, colours, "Clusters found")
    if labels is not None:
        panel, own = figure.add_subplot(1, panels, 2), palette(len(class_names))
        _scatter(panel, points, labels, class_names, own, "True classes")
    save(figure, path)


def _mosaic(
    path: str | Path,
    images: Sequence[np.ndarray | None],
    captions: Sequence[Any],
    title: str,
    columns: int | None = None,
) -> None:
    """Images in rows, a caption below each, on one axes whose unit is a pixel."""
    if len(images) != len(captions):
        raise DataError(f"captions: {len(captions)} for {len(images)} images; give one for each.")
    captions = [f"{c} (empty)" if i is None else c for i, c in zip(images, captions, strict=True)]
    shown = [_checked(image) for image in images] or [_checked(None)]
    side = next((len(image) for image in shown if image.size > 3), _CELL)
    # A whole multiple of S keeps the pixels of a small image square and equal.
    cell = side * max(1, round(_CELL / side)) if side <= 2 * _CELL else 2 * _CELL
    texts = [_caption(c, (cell + 8) // 6) for c in captions] or ["no images"]
    columns = columns or min(len(shown), max(4, math.ceil(math.sqrt(1.6 * len(shown)))))
    gap, foot, head = 12, 13 * max(text.count("\n") + 1 for text in texts) + 8, 40
    width = max(columns * (cell + gap) + gap, 420)
    height = head + math.ceil(len(shown) / columns) * (cell + foot)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    for i, (image, text) in enumerate(zip(shown, texts, strict=True)):
        left = gap + (i % columns) * (cell + gap)
        top = head + (i // columns) * (cell + foot)
        smooth = "nearest" if cell % len(image) == 0 else "antialiased"
        axes.imshow(image, extent=(left, left + cell, top + cell, top), interpolation=smooth)
        axes.text(left + cell / 2, top + cell + 3, text, ha="center", va="top", fontsize=6.5)
    text = one_line(title, int(width / 7.4))
    axes.text(gap, head / 2, text, va="center", fontsize=9.5, fontweight="bold")
    # Last, because every imshow sets the limits.
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    save(figure, path)


def _checked(image: np.ndarray | None) -> np.ndarray:
    """The image, or one light grey pixel for none."""
    image = np.full((1, 1, 3), 230, np.uint8) if image is None else np.asarray(image)
    if image.dtype != np.uint8 or image.shape != (len(image), len(image), 3):
        raise DataError(f"images: expected uint8 [S,S,3], got {image.dtype} {list(image.shape)}.")
    return image


def _caption(value: str | float, width: int) -> str:
    """At most two lines of `width` characters; a number gets three decimals."""
    text = value if isinstance(value, str) else f"{value:.3f}"
    lines = text.splitlines()[:2]
    if len(lines) < 2:
        lines = textwrap.wrap(text, width, max_lines=2, placeholder=" …")
    return "\n".join(one_line(line, width) for line in lines)


def _scatter(
    axes: Axes,
    points: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    colours: np.ndarray,
    title: str,
) -> None:
    """Points coloured by group, with the name of each group above its middle."""
    size = float(np.clip(9000 / max(1, len(points)), 4, 40))
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colours[groups], linewidths=0)
    present = np.unique(groups)
    outline = withStroke(linewidth=2.5, foreground="white")
    for group in present:
        x, y = np.median(points[groups == group], axis=0)
        name = axes.annotate(one_line(names[group], 16), (x, y), (0, 3), ha="center", weight="bold",
                             textcoords="offset points")  # fmt: skip
        font = 9 if len(present) <= _NAMED else 7 if len(present) <= 50 else 6
        name.set(fontsize=font, path_effects=[outline])
    axes.set_title(f"{title} ({len(present)})", fontsize=10, loc="left")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#dddddd")
    axes.set_aspect("equal", adjustable="datalim")
