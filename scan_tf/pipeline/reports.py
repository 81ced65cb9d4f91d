"""`report.json` of a run, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scan_tf.errors import StageError
from scan_tf.pipeline.run_dir import Run

FILE = "report.json"


def remedy(folder: Path) -> str:
    """What to do where a file in the folder of an evaluation is missing or damaged, in words."""
    return f"An evaluation makes it: scan-tf evaluate --run-dir {folder.parent} --redo evaluate"


def read(run: Run, folder: Path | None = None) -> dict[str, Any]:
    """The report of an evaluation.

    Args:
        run: the run.
        folder: of the evaluation of another split; None: of the stage, whose checksum is looked at.

    Raises:
        StageError: it is missing or damaged; the message names the command that makes it again.
    """
    path = run.sealed("evaluate", FILE) if folder is None else folder / FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path}: damaged or missing ({error}). To make it again: "
            f"scan-tf evaluate --run-dir {run.root} --redo evaluate"
        ) from error
