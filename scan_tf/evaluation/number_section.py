"""The section of the page about the number of clusters, where that was decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scan_tf.evaluation import report_lines, sections, svg


def html(decided: Mapping[str, Any] | None) -> str:
    """How the number of clusters was decided; nothing where it was set."""
    if decided is None:
        return ""
    curve, said = decided["curve"], report_lines.num_clusters(decided)
    unequal = f"<p>{sections.text(decided['unequal'])}</p>" if decided.get("unequal") else ""
    charts = {}
    for way, number in decided["said"].items():
        if way in curve[0]:
            errors = [2 * point[f"{way}, error"] for point in curve]
            ends = [
                (point[way] - e, point[way] + e) for point, e in zip(curve, errors, strict=True)
            ]
            low, high = min(low for low, _ in ends), max(high for _, high in ends)
            charts[f"{way[0].upper()}{way[1:]}: {number}"] = svg.lines(
                f"{way} by the number of clusters",
                {way: [(point["num_clusters"], point[way]) for point in curve]},
                xlabel="clusters",
                ylabel="beyond no groups",
                y_range=(low, high) if low < high else None,
                log_x=True,
                errors=errors,
            )
    figures = sections.charts_of(charts)
    return f"<p>{sections.text(said[0].upper() + said[1:])}.</p>{unequal}{figures}"
