"""The record of a stage: `status/<stage>.json`, which says what it is and of what it was made.

A record carries a digest of itself, and of the files of the stage that others read. Beside the
results lies a copy, `record.json`, so that a damaged record costs nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scan_tf.errors import StageError
from scan_tf.pipeline.stage import OUTPUTS, STAGES
from scan_tf.storage import files, writing

# What is sealed of a finished stage: what later stages and commands read.
_SEALED = (
    "weights.npz",
    "train.npz",
    "metrics.jsonl",
    "best.json",
    "report.json",
    "saved_model.pb",
    "model.json",
    "variables/*",
)
_COPY = "record.json"
# The kinds of errors in which damage shows.
_DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError),
    *(OSError, RecursionError, TypeError, ValueError),
)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Record:
    """What `status/<stage>.json` says of a stage.

    Attributes:
        status: "running", "interrupted", "done", or "not begun" where there is no record.
        wall_time_s: of all times that it was at work.
        config: the sections of the config that it read.
        result: what it has to tell of its work, JSON-able.
        files: file in its folder -> SHA-256, once it is done; empty in older records.
        made_of: stage before it -> SHA-256 of the result that it read.
        extended: what was changed while it went on: the step, and setting -> [before, after].
    """

    status: str = "not begun"
    wall_time_s: float = 0.0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    made_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extended: tuple[Mapping[str, Any], ...] = ()

    @property
    def has_begun(self) -> bool:
        """Whether there is a record."""
        return self.status != "not begun"

    @property
    def is_done(self) -> bool:
        """Whether the stage has finished, with whatever config."""
        return self.status == "done"

    @property
    def output(self) -> str | None:
        """The digest of what the next stages read; None where it is not known."""
        kept = [self.files[name] for name in ("weights.npz", "train.npz") if name in self.files]
        return kept[0] if kept else None


def read(root: Path, stage: str) -> Record:
    """The record of a stage in a run directory.

    Raises:
        StageError: it is damaged, and so is its copy.
    """
    path, copy = path_of(root, stage), root / STAGES[stage].folder / _COPY
    if not path.exists():
        return Record()
    try:
        return _parse(path)
    except _DAMAGE as error:
        try:
            found = _parse(copy)
        except _DAMAGE:
            raise StageError(
                f"{path}: damaged ({error!r}). The results beside it may be good: take the record "
                f"from a pack or a copy of the run. --redo {stage} makes the stage anew."
            ) from error
        _log.warning("%s: damaged; its copy %s stands for it.", path, copy)
        return found


def write(root: Path, stage: str, record: Record) -> None:
    """Write the record of a stage, and its copy where the results are worth one."""
    tree = json.loads(json.dumps(dataclasses.asdict(record)))
    text = json.dumps({"sha256": files.digest_of(tree), **tree}, indent=2) + "\n"
    files.write_text(path_of(root, stage), text)
    if stage not in OUTPUTS:
        files.write_text(root / STAGES[stage].folder / _COPY, text)


def path_of(root: Path, stage: str) -> Path:
    """Where the record of a stage lies."""
    return root / "status" / f"{stage}.json"


def seals(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of what there is in a stage's folder for others to read; on the disk now."""
    found = (path for pattern in _SEALED for path in sorted(folder.glob(pattern)))
    sealed = {}
    for path in filter(Path.is_file, found):
        writing.sync(path)
        sealed[path.relative_to(folder).as_posix()] = files.sha256(path)
    return sealed


def sealed(root: Path, stage: str, record: Record, name: str) -> Path:
    """A file of a finished stage, as the stage left it; see `Run.sealed`."""
    path = root / STAGES[stage].folder / name
    known = record.files.get(name)
    if known is None or not path.exists() or files.sha256(path) == known:
        return path
    way = f"scan-tf run --run-dir {root} --redo {stage}"
    if name == "metrics.jsonl":  # only curves are drawn of it
        way = f"mv {path} {path}.damaged (the curves are left out then; the weights are good)"
    raise StageError(
        f"{path}: damaged: it is not what the stage '{stage}' wrote. Take it from a pack or a copy "
        f"of the run, or: {way}"
    )


def differences(
    there: Any, here: Any, defaults: Any, path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Setting, its value there and here; one that `there` is too old to know had its default."""
    if isinstance(there, dict) and isinstance(here, dict):
        defaults = defaults if isinstance(defaults, dict) else {}
        for key in there | here:
            default = defaults.get(key)
            inner = f"{path}.{key}".strip(".")
            yield from differences(there.get(key, default), here.get(key), default, inner)
    elif there != here:
        yield path, there, here


def _parse(path: Path) -> Record:
    tree = json.loads(path.read_text(encoding="utf-8"))
    digest = tree.pop("sha256", None)
    if digest is not None and digest != files.digest_of(tree):
        raise ValueError("its checksum does not fit")
    return Record(
        str(tree["status"]),
        float(tree["wall_time_s"]),
        dict(tree["config"]),
        dict(tree["result"]),
        dict(tree.get("files", {})),
        dict(tree.get("made_of", {})),
        tuple(tree.get("extended", ())),
    )
