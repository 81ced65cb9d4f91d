"""The number of clusters of a run: as set, as many as classes, or as was decided on the features.

`deciding.py` decides, once, between the stages `neighbors` and `scan`, and leaves `clusters.json`
beside the neighbours; all that comes after takes the number from there. `config.yaml` keeps
what was typed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from scan_tf.config import Config
from scan_tf.errors import StageError
from scan_tf.pipeline import image_facts
from scan_tf.pipeline.image_facts import ImageFacts
from scan_tf.pipeline.record import Record
from scan_tf.storage import files

FILE = "clusters.json"
AUTO = "auto"
# Seconds for so many images, and of how many at most.
_SECONDS, _FOR, _MOST = 8.0, 1000, 3000
_log = logging.getLogger(__name__)


class Run(Protocol):
    """What is asked of a run (`run_dir.Run`, which asks here how many clusters it has)."""

    config: Config
    root: Path

    @property
    def facts(self) -> ImageFacts:
        """Of the training images."""

    def folder(self, stage: str) -> Path:
        """Of a stage."""

    def record(self, stage: str) -> Record:
        """Of a stage."""

    def seed(self, stage: str) -> int:
        """Of a stage."""


def is_open(run: Run) -> bool:
    """Whether the number is to be decided on the features."""
    wanted = run.config.scan.num_clusters
    return wanted == AUTO or (wanted is None and run.facts.num_classes is None)


def number(run: Run) -> int:
    """How many clusters.

    Raises:
        StageError: it is not decided yet, or out of range.
    """
    wanted = run.config.scan.num_clusters
    if not isinstance(wanted, str) and not is_open(run):
        return image_facts.num_clusters(wanted, run.facts)
    if found := read(run):
        return int(found["num_clusters"])
    # What was trained with it says so too.
    if trained := run.record("scan").result.get("num_clusters"):
        return int(trained)
    raise StageError(
        f"{path(run)}: the number of clusters is not decided yet. "
        f"Run: scan-tf scan --run-dir {run.root}, or set scan.num_clusters."
    )


def path(run: Run) -> Path:
    """Where it is written down."""
    return run.folder("neighbors") / FILE


def read(run: Run) -> dict[str, Any] | None:
    """What was decided on these neighbours with these settings; None: nothing, or not legibly.

    Returns:
        num_clusters, range, said (way of counting -> its number), sentence, unequal (a sentence, or
        None), curve (of every number that was tried: the score of each way and its error), sizes,
        num_images.
    """
    try:
        tree = json.loads(path(run).read_text(encoding="utf-8"))
        digest = tree.pop("sha256")
        if digest != files.digest_of(tree):
            raise ValueError("its checksum does not fit")
        known = tree.pop("made_of")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        _log.warning("%s: damaged (%s); the number is decided again.", path(run), error)
        return None
    return tree if known == _made_of(run) else None


def write(run: Run, found: Mapping[str, Any]) -> None:
    """Write down what `read` returns."""
    tree = json.loads(json.dumps({**found, "made_of": _made_of(run)}))
    files.write_text(
        path(run), json.dumps({**tree, "sha256": files.digest_of(tree)}, indent=2) + "\n"
    )


def seconds(run: Run) -> float:
    """How long deciding will take, about; 0 where nothing is left to decide."""
    if not is_open(run) or read(run) is not None:
        return 0.0
    return _SECONDS * min(_MOST, run.facts.count) / _FOR


def _made_of(run: Run) -> dict[str, Any]:
    """What decides: the neighbours stand for the features that they were found by."""
    return {
        "neighbors": run.record("neighbors").output,
        "num_clusters_range": list(run.config.scan.num_clusters_range),
        "seed": run.seed("neighbors"),
    }
