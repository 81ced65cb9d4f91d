"""What two runs have to have in common, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture_cases import TRAINED

REPORT = "eval/report.json"


def differences(one: Path, other: Path) -> list[str]:
    """The results of two runs that differ."""
    return [n for n, read in _RESULTS.items() if not equal(read(one / n), read(other / n))]


def report(path: Path) -> dict[str, Any]:
    """A report, without the times."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key != "wall_time_s"}


def equal(one: Any, other: Any) -> bool:
    """Whether values are the same, to the last bit; two NaN are."""
    import numpy as np

    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name not in ("manifest", "seconds")}


def _metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


_RESULTS: dict[str, Callable[[Path], Any]] = {
    **{f"{stage}/weights.npz": _arrays for stage in TRAINED},
    **{f"{stage}/metrics.jsonl": _metrics for stage in TRAINED},
    "neighbors/train.npz": _arrays,
    "neighbors/features.npz": _arrays,
    "eval/embeddings.npz": _arrays,
    "eval/assignments.csv": Path.read_bytes,
    "export/variables/variables.data-00000-of-00001": Path.read_bytes,
    REPORT: report,
}
