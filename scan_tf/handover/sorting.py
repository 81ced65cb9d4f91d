"""Images into folders named by their clusters: copies or links; the originals stay as they are.

What is to be made is known before anything is made (`plan`). Every file is noted in the undo file
before it appears, and appears whole, so that the same command goes on after an interruption and
`undo` takes back whatever there is. Nothing is ever overwritten.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from scan_tf.errors import DataError, MissingDataError, StageError
from scan_tf.evaluation.assignments import Assignment
from scan_tf.handover import safe_names, undo_file
from scan_tf.handover.sorted_file import Action, Sorted

UNSURE = "none of these"
# Free space in bytes that copies leave.
_SPARE = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `sort` would make.

    Attributes:
        target: the folder of the folders.
        moves: the original and the path below `target` of every file.
        missing: images that are no longer where they were.
    """

    target: Path
    moves: tuple[tuple[Path, str], ...]
    missing: tuple[Path, ...]

    @property
    def folders(self) -> dict[str, int]:
        """The folders, sorted, and how many files each gets."""
        counts = collections.Counter(place.partition("/")[0] for _, place in self.moves)
        return dict(sorted(counts.items()))


@dataclasses.dataclass(frozen=True)
class Undone:
    """What `undo` did: how many files it removed, and which it kept and why."""

    removed: int
    kept: tuple[tuple[Path, str], ...]


def plan(
    images: Sequence[Assignment], root: Path, target: Path, *, num_clusters: int, below: float = 0.0
) -> Plan:
    """Which file goes where; nothing is written.

    A folder is called as the cluster, or `cluster-3` where that has no name; clusters of one name
    share a folder. A file keeps its name; where several in a folder have the same one, they are
    called after their folders too, as in `2023__beach__001.jpg`.

    Args:
        images: what is to be sorted; at least one.
        root: where the images are, to which their paths are given.
        target: the folder to make, or to add to.
        num_clusters: how many there are, for the width of their numbers.
        below: images less sure than this go into the folder `none of these`.

    Raises:
        MissingDataError: none of the images is there.
        DataError: `target` lies among the images, or a folder of it holds them.
    """
    root, target = root.resolve(), target.resolve()
    if target == root or root in target.parents:
        raise DataError(
            f"{target}: lies among the images in {root}, where the next run would find everything "
            "twice. Give a folder outside of it."
        )
    there, missing = list[Assignment](), list[Path]()
    for image in images:
        path = root / image.path
        if path.is_file():
            there.append(image)
        else:
            missing.append(path)
    if not there:
        raise MissingDataError(
            f"{root}: none of the {len(images)} images is there. Where were they moved to? "
            "Say so with --images FOLDER."
        )
    folders = _folders(there, num_clusters)
    members: dict[str, list[str]] = {}
    for image in there:
        folder = UNSURE if image.confidence < below else folders[_label(image, num_clusters)]
        members.setdefault(folder, []).append(image.path)
    moves = list[tuple[Path, str]]()
    for folder, paths in sorted(members.items()):
        place = (target / folder).resolve()
        if place == root or place in root.parents:
            raise DataError(f"{place}: holds the images themselves. Give another folder.")
        names = safe_names.of_files(paths)
        moves += [
            (root / path, f"{folder}/{name}") for path, name in zip(paths, names, strict=True)
        ]
    return Plan(target, tuple(moves), tuple(missing))


def sort(plan: Plan, action: Action, *, progress: bool = True) -> int:
    """Make the folders and their files, and the undo file beside them.

    Args:
        plan: what to make.
        action: copies, symbolic links or hard links.
        progress: show a bar, where the output is a terminal.

    Returns:
        How many files were made; those that an interrupted call has made are not made again.

    Raises:
        DataError: a file is there already, links cannot be made, or there is too little space.
        StageError: the folder holds another sort.
    """
    from tqdm import tqdm

    made = _made_before(plan, action)
    rest = [(source, place) for source, place in plan.moves if place not in made]
    taken = [place for _, place in rest if os.path.lexists(plan.target / place)]
    if taken:
        raise DataError(
            f"{plan.target}: {len(taken)} of the files to make are there already and stay as they "
            f"are, such as {taken[0]}. Give another folder."
        )
    if action == "copy":
        _check_space(plan.target, [source for source, _ in rest])
    plan.target.mkdir(parents=True, exist_ok=True)
    with undo_file.noting(plan.target / undo_file.NAME) as note:
        for source, place in tqdm(rest, "sorting", disable=None if progress else True):
            file = Sorted.of(source, place, action)
            note(file)  # first: what is noted and not there is nothing to undo
            file.make(plan.target)
    return len(rest)


def undo(path: Path) -> Undone:
    """Remove the files that an undo file tells of, and the folders that are empty then.

    Kept is what has been changed since, and what would be the last copy of an image; the undo file
    then goes on to tell of it.

    Args:
        path: the undo file, `sort-undo.jsonl` in the sorted folder.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no undo file.
    """
    target, removed = path.resolve().parent, 0
    kept = list[tuple[Sorted, str]]()
    folders = set[Path]()
    for file in undo_file.read(path):
        file.clear(target)
        place = target / file.place
        folders.add(place.parent)
        if not os.path.lexists(place):
            continue
        if why := file.to_be_kept(target):
            kept.append((file, why))
            continue
        place.unlink()
        removed += 1
    if kept:
        undo_file.write(path, [file for file, _ in kept])
    else:
        path.unlink()
    for folder in [*folders, target]:
        with contextlib.suppress(OSError):  # it is not empty, or has never been made
            folder.rmdir()
    return Undone(removed, tuple((target / file.place, why) for file, why in kept))


def _label(image: Assignment, num_clusters: int) -> str:
    """What a folder is called after."""
    return image.name or f"cluster-{image.cluster:0{len(str(num_clusters - 1))}d}"


def _folders(images: Sequence[Assignment], num_clusters: int) -> dict[str, str]:
    """Label -> folder; the folders differ from each other and from the undo file."""
    labels = sorted({_label(image, num_clusters) for image in images})
    names = safe_names.different([undo_file.NAME, *map(safe_names.of_folder, labels)])
    return dict(zip(labels, names[1:], strict=True))


def _made_before(plan: Plan, action: Action) -> set[str]:
    """The places that an interrupted sort of the same plan has filled."""
    path = plan.target / undo_file.NAME
    if not path.exists():
        return set()
    wanted, earlier = {place: str(source) for source, place in plan.moves}, undo_file.read(path)
    for file in earlier:
        if file.action != action or wanted.get(file.place) != file.source:
            raise StageError(
                f"{plan.target}: holds another sort, which made {file.place}. Take that back with "
                f"scan-tf sort --undo {path}, or give another folder."
            )
        file.clear(plan.target)
    return {file.place for file in earlier if os.path.lexists(plan.target / file.place)}


def _check_space(target: Path, sources: Sequence[Path]) -> None:
    """Refuse copies for which there is no room."""
    needed = sum(source.stat().st_size for source in sources)
    there = next(folder for folder in (target, *target.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed + _SPARE > free:
        raise DataError(
            f"{target}: copies take {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are "
            "free. Give another folder, or links with --link."
        )
