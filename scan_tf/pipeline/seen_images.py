"""Which images a run has learnt from: a short digest of every one, by which others are noticed.

`status/images.npz` holds them for each split, in their order: a uint64 for each image. Where the
images lie and what their files are called makes no difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import StageError
from scan_tf.storage import files

FILE = Path("status", "images.npz")
_SHOWN = 3


def digests(images: ImageSet) -> np.ndarray:
    """A digest of every image's pixels, uint64 [N]."""
    found = np.empty(len(images), np.uint64)
    for row in range(len(images)):
        image = images.images[row]
        content = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
        found[row] = int.from_bytes(content, "little")
    return found


def digest(rows: np.ndarray) -> str:
    """A digest of all images of a split, in their order, by those of each, uint64 [N]."""
    return hashlib.sha256(rows.tobytes()).hexdigest()


def known(root: Path) -> dict[str, np.ndarray]:
    """Split -> the digests of the images that a run has seen. Raises StageError where damaged."""
    way = (
        "Take it from a copy of the run; or, where the images are those that it has learnt from, "
        "remove it: it is made anew."
    )
    return files.read_npz(root / FILE, way=way)[0] if (root / FILE).exists() else {}


def remember(root: Path, seen: dict[str, np.ndarray]) -> None:
    """Add splits to those that are known."""
    before = known(root)
    if seen.keys() - before.keys():
        files.write_npz(root / FILE, {**seen, **before}, {})


def forget(root: Path, splits: Collection[str]) -> None:
    """Take splits from those that are known: nothing that was made of them is left."""
    before = known(root)
    left = {split: rows for split, rows in before.items() if split not in splits}
    if left.keys() != before.keys():
        files.write_npz(root / FILE, left, {})


def check(root: Path, images: ImageSet, found: np.ndarray) -> None:
    """Refuse other images than those that the run has seen of this split.

    Args:
        root: the run directory.
        images: of a split.
        found: their digests.

    Raises:
        StageError: some are new, gone, or in another order; the message counts them.
    """
    before = known(root).get(images.split)
    if before is None or np.array_equal(before, found):
        return
    new = np.flatnonzero(~np.isin(found, before))
    gone = int((~np.isin(before, found)).sum())
    what = f"{len(new)} of {len(found)} are new, {gone} of {len(before)} are gone"
    if not len(new) and not gone:
        what = f"they are {len(found)} in another order or number, not {len(before)}"
    names = [images.paths[row] for row in new[:_SHOWN]] if images.paths else []
    shown = f" (new: {', '.join(names)}{', ...' if len(new) > len(names) else ''})" if names else ""
    raise StageError(
        f"{root}: the {images.split} images are not those that this run has learnt from: "
        f"{what}{shown}. Put them back, give another --run-dir, or begin anew with --redo "
        f"{'evaluate' if images.split == 'test' else 'pretext'}."
    )
