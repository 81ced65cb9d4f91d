"""Lines of a report as text: the pretext's features, and which clustering is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scan_tf.evaluation.text import percent


def kept(report: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Which clustering is shown, and what self-label did for that to be asked."""
    return f"Shown is {labels[report['kept']]}. Self-label: {report['kept_because']}."


def num_clusters(decided: Mapping[str, Any]) -> str:
    """How many clusters there are, how sure that is, and how many classes there are."""
    known = decided.get("true")
    return decided["sentence"] + (f"; the true number is {known}" if known else "")


def features(found: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """A line for each kind of features: how long a row is, kNN with its K, and so on."""
    if not found:
        return []
    k = next(iter(found.values()))["knn_k"]
    lines = ["", f"{'pretext features':28}{f'kNN, K {k}':>14}{'linear probe':>14}{'k-means':>10}"]
    for name, scores in found.items():
        cells = [scores["knn_acc"], scores["linear_probe_acc"], scores["kmeans_acc"]]
        texts = zip((14, 14, 10), map(percent, cells), strict=True)
        row = "".join(f"{text:>{width}}" for width, text in texts)
        lines.append(f"{name} ({scores['dim']})".ljust(28) + row)
    return lines


def pretext(scores: Mapping[str, Any]) -> str:
    """What is known of the pretext, in a line."""
    if scores["note"]:
        return str(scores["note"])
    text = f"kNN {percent(scores['knn_acc'])}"
    if by := scores.get("neighbor_features"):
        text += f" by the {by}"
    text += f", neighbour purity {percent(scores['neighbor_purity'])}"
    if scores["linear_probe_acc"] is not None:
        how = " (5-fold)" if "5-fold" in scores["linear_probe_protocol"] else ""
        text += f", linear probe {percent(scores['linear_probe_acc'])}{how}"
    return text
