"""What a picture says, as one sentence for its title: numbers in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """How many images are right, and which two classes are mistaken most often.

    Args:
        matrix: int [C,C], images of class i that were put into class j.
        class_names: C names.
    """
    total, right = int(matrix.sum()), int(np.trace(matrix))
    if not total:
        return "No image was put into a class"
    said = f"{right / total:.1%} of {total:,} images are in the cluster of their class"
    wrong = matrix - np.diag(np.diag(matrix))
    if not wrong.any():
        return said
    true, other = np.unravel_index(wrong.argmax(), wrong.shape)
    count = int(wrong[true, other])
    return f"{said}; most often mistaken: {class_names[true]} for {class_names[other]} ({count:,})"


def sizes(counts: np.ndarray) -> str:
    """From the smallest to the largest of C clusters, int [C], and how many are empty."""
    used = counts[counts > 0]
    if not len(used):
        return f"No images in {_many(len(counts), 'cluster')}"
    empty = len(counts) - len(used)
    none = "none is empty" if not empty else f"{empty} {'is' if empty == 1 else 'are'} empty"
    span = f"{used.min():,} to {used.max():,} images" if len(used) > 1 else f"{used[0]:,} images"
    return f"{_many(len(counts), 'cluster')} of {span}; {none}"


def confidence(values: np.ndarray) -> str:
    """How sure the assignments are, float [n] in 0..1."""
    if not len(values):
        return "No image was assigned"
    # Rounded down: nothing is surer than 1.
    half, sure = np.floor(1000 * float(np.median(values))) / 1000, np.mean(values > 0.99)
    return f"Half of the images are surer than {min(half, 0.999):.3f}, {sure:.0%} than 0.99"


def reliability(name: str, bins: Sequence[Mapping[str, Any]]) -> str:
    """Whether a clustering is as sure as it is right, from the bins of its calibration."""
    filled = [row for row in bins if row["count"]]
    total = sum(row["count"] for row in filled)
    if not total:
        return "No image was assigned"
    sure, right = (sum(row["count"] * row[key] for row in filled) / total
                   for key in ("confidence", "accuracy"))  # fmt: skip
    name, gap = name.removeprefix("+ "), 100 * (sure - right)
    name = name[:1].upper() + name[1:]
    if abs(gap) < 0.5:
        return f"{name} is as sure as it is right ({right:.0%})"
    how = "surer than it is right" if gap > 0 else "less sure than it is right"
    return f"{name} is {abs(gap):.0f} {'point' if round(abs(gap)) == 1 else 'points'} {how}"


def coverage(rows: Sequence[Mapping[str, Any]], *, known: bool) -> str:
    """What leaving out the least sure fifth of the images brings, from the rows of `coverage`."""
    at = {round(100 * row["coverage"]): row for row in rows}
    kept, every = at[80], at[100]
    if known:
        return (
            f"Without the least sure fifth {kept['accuracy']:.1%} of the images are right, "
            f"with it {every['accuracy']:.1%}"
        )
    return f"The surest four fifths of the images are surer than {kept['threshold']:.2f}"


def purity(by_k: Mapping[str, float], chance: float) -> str:
    """How often a neighbour is of the image's class, by the number of neighbours."""
    (few, best), (many, worst) = list(by_k.items())[0], list(by_k.items())[-1]
    said = f"{best:.0%} of the {few} nearest neighbours are of the image's class"
    if few == "1":
        said = f"The nearest neighbour is of the image's class in {best:.0%}"
    more = f", {worst:.0%} of the {many} nearest" if many != few else ""
    return f"{said}{more} (chance: {chance:.0%})"


def feature_map(count: int, right: float | None) -> str:
    """What the map shows; `right`: share of the images in the cluster of their class, or None."""
    said = f"Map of {_many(count, 'image')}: near means similar to the network"
    return said if right is None else f"{said}; {right:.1%} are in the cluster of their class"


def curves(losses: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """From which loss to which every stage went; its points are (epoch, loss)."""
    parts = [
        f"{stage} {points[0][1]:.3g} to {points[-1][1]:.3g}"
        for stage, points in losses.items()
        if points
    ]
    return f"Training curves; loss: {', '.join(parts)}" if parts else "Training curves"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
