"""Deciding how many clusters there are, before the first head is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scan_tf.errors import ConfigError, DataError
from scan_tf.evaluation import charts, num_clusters
from scan_tf.evaluation.num_clusters import Estimate
from scan_tf.pipeline import decided, neighbors
from scan_tf.pipeline.run_dir import Run

PICTURE = "clusters.png"
# SCAN's entropy term with a weaker weight than the published 5 (docs/experiments.md).
_WEAKER = "scan.entropy_weight=2"


def check(run: Run) -> None:
    """Refuse now what cannot be decided later; raises as `decide`, and where a number is bad."""
    if not decided.is_open(run):
        _ = run.num_clusters
        return
    low, high = run.config.scan.num_clusters_range
    least = max(num_clusters.LEAST_IMAGES, num_clusters.PER_CLUSTER * low)
    if low > high:
        raise ConfigError(
            f"scan.num_clusters_range: expected the least number first, got [{low}, {high}]."
        )
    if run.facts.count < least:
        raise DataError(
            f"scan.num_clusters: auto takes at least {least} images, got {run.facts.count}. "
            "Set it to about as many as the kinds that you expect, such as scan.num_clusters=3."
        )


def decide(run: Run) -> None:
    """Decide, where the number was left open and nothing is decided yet.

    Raises:
        StageError: the neighbours are missing.
        ConfigError: the range to look at is empty.
        DataError: there are too few images, or all look the same.
    """
    if not decided.is_open(run) or decided.read(run) is not None:
        return
    run.require("neighbors")
    check(run)
    print("clusters: deciding how many, on the features, without labels")
    run.claim()
    low, high = run.config.scan.num_clusters_range
    rows = neighbors.features(run)["train"]
    try:
        found = num_clusters.estimate(rows, low=low, high=high, seed=run.seed("neighbors"))
    except DataError as error:
        raise DataError(f"scan.num_clusters: auto, but {error} Set it to a number.") from error
    tree = as_tree(found, run.config.scan.name)
    draw(run.folder("neighbors") / PICTURE, tree)
    decided.write(run, tree)
    print(f"  {found.sentence}")
    if tree["unequal"]:
        print(f"  {tree['unequal']}")


def as_tree(found: Estimate, method: str) -> dict[str, Any]:
    """What is written down of it; `method`: that clusters later."""
    curve = [
        {
            "num_clusters": number,
            **{way: curve.scores[i] for way, curve in found.curves.items()},
            **{f"{way}, error": curve.errors[i] for way, curve in found.curves.items()},
        }
        for i, number in enumerate(found.numbers)
    ]
    unequal = None
    if found.unequal:
        unequal = (
            f"The kinds look unequal in size: clusters of {found.sizes[-1]:,} to "
            f"{found.sizes[0]:,} images, where equal ones are preferred. "
        )
        unequal += f"{_WEAKER} weakens that preference"
        unequal += "." if method == "scan" else " (with scan.name=scan)."
    return {
        "num_clusters": found.num_clusters,
        "range": [found.low, found.high],
        "said": dict(found.said),
        "sentence": found.sentence,
        "unequal": unequal,
        "num_images": found.num_images,
        "sizes": list(found.sizes),
        "curve": curve,
    }


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """The curves of `as_tree`, each as a share of its best, with two errors; as a PNG."""
    points, series = found["curve"], {}
    for way in (way for way in found["said"] if way in points[0]):
        best = max(abs(point[way]) for point in points) or 1.0
        scores = [max(-0.1, point[way] / best) for point in points]
        series[f"{way}: {found['said'][way]}"] = (
            scores,
            [2 * point[f"{way}, error"] / best for point in points],
        )
    low, high = found["range"]
    charts.series(
        path,
        [str(point["num_clusters"]) for point in points],
        series,
        xlabel="clusters",
        ylabel="beyond features without groups, share of the best",
        title=f"{found['num_clusters']} clusters, of {low} to {high} that look alike",
    )
