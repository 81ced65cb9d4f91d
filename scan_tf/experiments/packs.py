"""A run directory packed to be carried, and gone on with on another machine.

A pack is a folder: `manifest.json`, and parts that are named by their number and the start of their
SHA-256. Put together, the parts are a plain tar archive (`cat *.part | tar x`). What later stages
need travels, and no more: weights, the state of a stage that has begun, the neighbours, the metrics
and the records. Left behind are pictures, TensorBoard, the SavedModel, and the features, which are
made again from the weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from scan_tf.config import COPY
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.pipeline import record as records
from scan_tf.pipeline import seen_images
from scan_tf.pipeline.stage import STAGES, TRAINED
from scan_tf.settings.sealed import seal
from scan_tf.storage import files, writing

FORMAT = 2
MANIFEST = "manifest.json"
_MAX_MANIFEST = 16 * 2**20
_TEXTS = (
    COPY,
    "environment.json",
    "campaign.jsonl",  # the name of the next in older runs
    "sessions.jsonl",
    "*/metrics.jsonl",
    "scan/heads/metrics.jsonl",
    "neighbors/clusters.json",
    "scan/best.json",
    "eval/report.json",
    "eval/reference.npz",
    "names.yaml",
    "status/*.json",
)
# The repetitions with other seeds: the run of each, and the tables.
_SEED_RUNS = "sweeps/seeds*/seed-*"
_SEED_TABLES = ("sweeps/seeds*/scores.json", "sweeps/seeds*/table.*")


def pack(root: Path, folder: Path, *, part_mib: float = 15) -> list[Path]:
    """Write what is needed to go on with a run, in place of an older pack of it.

    What is finished comes first, so that of a later pack only the parts with new names, and the
    manifest, have to be carried.

    Args:
        root: the run directory; nobody writes in it meanwhile.
        folder: what becomes the pack.
        part_mib: size in MiB of the parts; the last one is smaller.

    Returns:
        The files of the pack, the manifest first.

    Raises:
        StageError: there is no run, a record of it is damaged, or a program is at work in it.
        DataError: `folder` holds something else.
        ConfigError: `part_mib` is not positive.
    """
    if not (root / COPY).is_file():
        raise StageError(f"{root}: no run directory; {COPY} is missing.")
    size = round(part_mib * 2**20)
    if size < 1:
        raise ConfigError(f"--part-mib: must be greater than 0, got {part_mib}.")
    if folder.exists() and not _is_pack(folder):
        raise DataError(f"{folder}: holds something that is no pack. Name another folder.")
    held = None
    with contextlib.suppress(OSError):  # nobody writes where nothing can be written
        held = writing.Writing.of(root)
    folder.mkdir(parents=True, exist_ok=True)
    parts = _Parts(folder, size)
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in _contents(root):
            # The same bytes from the same files, whenever and by whomever they were written.
            info = tarfile.TarInfo(path.relative_to(root).as_posix())
            info.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(info, file)
    parts.finish()
    # Until now an older pack was complete, because parts are named by what is in them.
    manifest = {"format": FORMAT, "parts": parts.written}
    sealed = {**manifest, "sha256": files.digest_of(manifest)}
    files.write_text(folder / MANIFEST, json.dumps(sealed) + "\n")
    written = [folder / MANIFEST, *(folder / str(part["name"]) for part in parts.written)]
    for old in set(folder.iterdir()) - set(written):
        old.unlink()
    del held
    return written


def unpack(paths: Iterable[Path], root: Path, *, data_path: str | None = None) -> None:
    """Restore a run directory from a pack, after checking all of it.

    Args:
        paths: folders with the files of the pack, or the files, in any order.
        root: the run directory to make; it appears when it is complete.
        data_path: where the images are on this machine, in place of the run's `data.path`.

    Raises:
        DataError: a file of the pack is missing, damaged or of another format.
        StageError: `root` exists and is not empty.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise StageError(f"{root}: exists. Unpack into a new folder.")
    parts = _checked_parts(paths)
    # An archive that is not packed takes no more room than its parts.
    left = sum(part.stat().st_size for part in parts)
    with files.replacing(root) as fresh:
        try:
            with _Joined(parts) as joined, tarfile.open(fileobj=joined, mode="r|") as archive:
                for member in archive:
                    left -= member.size
                    if left < 0:
                        raise ValueError("its files are larger than all of it")
                    _extract(archive, member, fresh)
        except (tarfile.TarError, ValueError) as error:
            raise DataError(f"{MANIFEST}: damaged ({error}). Copy or pack it again.") from error
        if data_path is not None:
            _move_data(fresh, data_path)


def _contents(root: Path) -> Iterator[Path]:
    """The files to carry, those that will not change any more first."""
    finished = [stage for stage in STAGES if records.read(root, stage).is_done]
    for stage in finished:
        yield from _existing(root / stage, STAGES[stage].keeps)
    for stage in STAGES:
        if stage not in finished:
            yield from _begun(root / stage)
    for path in _existing(root, _TEXTS):
        # The SavedModel stays behind and is made again.
        if path.relative_to(root).as_posix() != "status/export.json":
            yield path
    yield from _existing(root, [seen_images.FILE.as_posix()])
    for seed in sorted(root.glob(_SEED_RUNS)):
        yield from _seed_contents(seed)
    yield from _existing(root, _SEED_TABLES)


def _seed_contents(root: Path) -> Iterator[Path]:
    """Of a finished seed its scores alone; others take pretext and neighbours from the run."""
    finished, own = records.read(root, "evaluate").is_done, TRAINED[1:]
    for stage in () if finished else own:
        if records.read(root, stage).is_done:
            yield from _existing(root / stage, STAGES[stage].keeps)
        else:
            yield from _begun(root / stage)
    for path in _existing(root, _TEXTS):
        told = path.suffix != ".npz"  # the table of what is far away goes with a classifier
        if told and (finished or path.parent.name != "status" or path.stem in own):
            yield path


def _begun(folder: Path) -> Iterator[Path]:
    for path in _existing(folder, STAGES[folder.name].begun):
        # Heads that have been warmed up need their state no more.
        if path.parts[-3:-1] != ("heads", "ckpt") or not (folder / "heads/weights.npz").exists():
            yield path


def _existing(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))


class _Parts(io.RawIOBase):
    """A stream that is cut into files of one size, each named by what is in it."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        self.written: list[dict[str, Any]] = []
        self._waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting += data
        while len(self._waiting) >= self.size:
            self._write_part(bytes(self._waiting[: self.size]))
            del self._waiting[: self.size]
        return len(data)

    def finish(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._write_part(bytes(self._waiting))

    def _write_part(self, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        name = f"{len(self.written):03d}-{digest[:12]}.part"
        with files.atomic(self.folder / name) as temporary:
            temporary.write_bytes(data)
        self.written.append({"name": name, "bytes": len(data), "sha256": digest})


class _Joined(io.RawIOBase):
    """Files read as one stream."""

    def __init__(self, paths: Iterable[Path]):
        self._files = (path.open("rb") for path in paths)
        self._file = next(self._files, None)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = b""
        while self._file is not None and (size < 0 or len(data) < size):
            more = self._file.read(size - len(data) if size >= 0 else -1)
            data += more
            if not more:
                self._file.close()
                self._file = next(self._files, None)
        return data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _checked_parts(paths: Iterable[Path]) -> list[Path]:
    """The parts in their order. Raises DataError naming all that are missing or damaged."""
    found = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    for link in (file for file in found if file.is_symlink() or not file.is_file()):
        raise DataError(f"{link}: a pack has files alone, no links. Copy it again.")
    manifests = [f for f in found if f.name == MANIFEST]
    if len(manifests) != 1:
        raise DataError(f"expected one {MANIFEST} among the files, got {len(manifests)}.")
    try:
        if manifests[0].stat().st_size > _MAX_MANIFEST:
            raise ValueError(f"it has more than {_MAX_MANIFEST:,} bytes")
        manifest = json.loads(manifests[0].read_text(encoding="utf-8"))
        # Manifests of older versions carry no digest of themselves.
        if manifest.pop("sha256", None) not in (None, files.digest_of(manifest)):
            raise ValueError("its checksum does not fit")
        known = manifest["format"] == FORMAT
        parts = [_part(part) for part in manifest["parts"]] if known else []
    except (OSError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise DataError(f"{manifests[0]}: cannot be read or is damaged ({error!r}).") from error
    if not known:
        raise DataError(f"{manifests[0]}: no pack of format {FORMAT}. Pack the run again.")
    by_name = {f.name: f for f in found}
    problems = []
    for name, size, digest in parts:
        if name not in by_name:
            problems.append(f"{name} is missing")
        elif by_name[name].stat().st_size != size or files.sha256(by_name[name]) != digest:
            problems.append(f"{name} is damaged")
    if problems:
        count = f"{len(problems)} of {len(parts)} parts"
        raise DataError(f"{count}: {'; '.join(problems)}. Copy them again.")
    return [by_name[name] for name, _, _ in parts]


def _part(known: Any) -> tuple[str, int, str]:
    """Name, bytes and SHA-256 of a part; ValueError for another name than parts have."""
    name, size, digest = str(known["name"]), int(known["bytes"]), str(known["sha256"])
    if not re.fullmatch(r"\d{3,}-[0-9a-f]{12}\.part", name) or size < 1:
        raise ValueError(f"no part is called {name!r}")
    return name, size, digest


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    """Write a file of the archive below `root`; ValueError for anything else than that."""
    name, file = PurePosixPath(member.name), archive.extractfile(member)
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
    if not plain or file is None or name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{name} is no file inside of the folder")
    if any(part.startswith(".") or not part.isprintable() for part in name.parts):
        raise ValueError(f"{str(name)!r} is no name of a file of a run")
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise ValueError(f"{name} is there twice")
    with path.open("xb") as target:
        shutil.copyfileobj(file, target)


def _is_pack(folder: Path) -> bool:
    """Whether nothing else is in a folder than a pack, or what was left of writing one."""
    ours = (MANIFEST, ".part", ".tmp")
    return folder.is_dir() and all(f.is_file() and f.name.endswith(ours) for f in folder.iterdir())


def _move_data(root: Path, data_path: str) -> None:
    """Put another `data.path` into the configs and the records, which have to agree with it."""
    for path in root.rglob(COPY):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        tree["data"]["path"] = data_path
        files.write_text(path, seal(yaml.safe_dump(tree, sort_keys=False)))
    for path in root.rglob("status/*.json"):
        run, stage = path.parents[1], path.stem
        record = records.read(run, stage)
        if "data" in record.config:
            moved = {**record.config, "data": {**record.config["data"], "path": data_path}}
            records.write(run, stage, dataclasses.replace(record, config=moved))
