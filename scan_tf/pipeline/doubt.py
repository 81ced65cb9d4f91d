"""When a run says "none of these": `reference.npz`, which an evaluation leaves to the export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.features.outliers import Reference
from scan_tf.pipeline import reports
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage import files

FILE = "reference.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class Doubt:
    """When to say "none of these".

    Attributes:
        bank: float32 [M,D], see `outliers.Reference`.
        far: the distance above which an image is unlike all that were learned from.
        below: the confidence below which the classifier is unsure.
        how: how `below` was chosen, in words.
    """

    bank: np.ndarray
    far: float
    below: float
    how: str


def store(
    folder: Path,
    compared: tuple[Reference, np.ndarray] | None,
    abstain: Mapping[str, Any] | None,
) -> None:
    """Keep in the folder of an evaluation what it found, and what its report says of it."""
    if compared is None or abstain is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    facts = {key: abstain[key] for key in ("far", "below", "how")}
    files.write_npz(folder / FILE, {"bank": compared[0].bank}, facts)


def load(run: Run) -> Doubt | None:
    """What the evaluation of the run found; None where there is none, or it is an older one's."""
    return read(run.folder("evaluate")) if run.record("evaluate").is_done else None


def read(folder: Path) -> Doubt | None:
    """What the evaluation in a folder found; None where it found nothing."""
    path = folder / FILE
    if not path.exists():
        return None
    arrays, facts = files.read_npz(path, way=reports.remedy(folder))
    return Doubt(arrays["bank"], facts["far"], facts["below"], facts["how"])
