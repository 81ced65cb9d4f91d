"""When to say "none of these": images that the classifier is unsure of, or that it never saw alike.

Labels play no part in it, so that the scores of the images that are kept stay honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.evaluation.assignments import Assignment
from scan_tf.storage.files import write_csv

# The threshold that is chosen where none is set keeps so many of the evaluated images, and never
# turns away one that is surer than this.
COVERAGE, SURE = 0.9, 0.9
UNSURE, UNLIKE = "unsure", "unlike"
FILE = "outliers.csv"


def threshold(coverage: Sequence[Mapping[str, Any]], wanted: float | None) -> tuple[float, str]:
    """The confidence below which an image is left out, and how it was chosen, in words.

    Args:
        coverage: rows of the coverage curve, see `calibration.coverage`.
        wanted: the threshold that was set; None: chosen on the curve, as the confidence that nine
            in ten of the images reach, or 0.9 where they are surer than that.
    """
    if wanted is not None:
        return wanted, "as set"
    (row,) = (row for row in coverage if row["coverage"] == COVERAGE)
    if row["threshold"] > SURE:
        return SURE, f"at least {100 * COVERAGE:.0f} % of the images are surer than {SURE}"
    return float(row["threshold"]), f"{100 * COVERAGE:.0f} % of the images are at least so sure"


def reasons(
    confidence: np.ndarray,
    distance: np.ndarray | None,
    *,
    below: float | None,
    far: float | None,
) -> list[str]:
    """Why each of N images is none of the kinds: "unlike" all others, "unsure", or "" for one.

    Args:
        confidence: float [N] in 0..1.
        distance: float [N], see `outliers.distances`; None: unknown.
        below: confidences under it are unsure; None: none is.
        far: distances above it are unlike all others; None: none is.
    """
    found = np.full(len(confidence), "", object)
    if below is not None:
        # Both in float32, as in the exported model.
        found[np.asarray(confidence, np.float32) < np.float32(below)] = UNSURE
    if distance is not None and far is not None:
        found[np.asarray(distance, np.float32) > np.float32(far)] = UNLIKE
    return list(found)


def summary(
    confidence: np.ndarray,
    distance: np.ndarray,
    correct: np.ndarray | None,
    *,
    below: float,
    how: str,
    far: float,
) -> dict[str, Any]:
    """What the report says: thresholds, how many images of each kind, accuracy of those kept.

    Returns:
        below, how, far; unsure and unlike, numbers of images; kept, their share 0..1; accuracy of
        the kept ones (None without labels, `correct`, or without any).
    """
    why = np.array(reasons(confidence, distance, below=below, far=far), object)
    kept = why == ""
    accuracy = None if correct is None or not kept.any() else float(correct[kept].mean())
    return {
        "below": below,
        "how": how,
        "far": far,
        "unsure": int((why == UNSURE).sum()),
        "unlike": int((why == UNLIKE).sum()),
        "kept": float(kept.mean()),
        "accuracy": accuracy,
    }


def sentence(found: Mapping[str, Any]) -> str:
    """What `summary` found, in words."""
    unsure, unlike = found["unsure"], found["unlike"]
    return (
        f"{unsure:,} {'image is' if unsure == 1 else 'images are'} unsure, below a confidence of "
        f"{found['below']:.3g} ({found['how']}), and {unlike:,} unlike all others ({FILE})"
    )


def outliers(distance: np.ndarray, far: float) -> np.ndarray:
    """Rows int64 of the images that are unlike all others, the farthest first."""
    beyond = np.flatnonzero(distance > np.float32(far))
    return beyond[np.argsort(-distance[beyond], kind="stable")]


def write_outliers(
    folder: Path, rows: Sequence[Assignment], distance: np.ndarray, far: float
) -> None:
    """`outliers.csv`: the images that are unlike all others, the farthest first."""
    lines = []
    for number in outliers(distance, far).tolist():
        row = rows[number]
        numbers = (f"{row.confidence:.6f}", f"{distance[number]:.6f}")
        lines.append((row.path, row.cluster, row.name, *numbers))
    write_csv(folder / FILE, ("path", "cluster", "name", "confidence", "distance"), lines)
