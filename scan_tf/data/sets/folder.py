"""Your own images: any folder, with or without sub-folders.

Sub-folders are labels, which serve evaluation only. Where the layout leaves a choice:

* `train/` (or `training/`) beside `test/`, `testing/`, `val/`, `valid/`, `validation/`, `dev/`,
  `eval/` or `evaluation/`, in upper or lower case, are the splits, and so is `train/` when it is
  the only sub-folder. Of several for the test the first in this order is taken, and a warning
  names what else lies beside. Two such names that are no pair are refused. Otherwise everything is
  "train" and there is no "test".
* The label is the first folder below the split; deeper folders are searched but name nothing.
* The classes are those of the training images that can be read. Test images of other classes are
  left out, with a warning; where none is of a known class, as in `test/unknown/`, none has a label.
* Images beside the class folders have no label, so then the split has none (a warning says so). One
  single sub-folder is no label either: there would be nothing to tell apart.
* Files that cannot be read are skipped and listed, or refused with `data.strict`; so are folders
  that may not be looked into and images of kinds that are not read.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scan_tf.config import DataConfig
from scan_tf.data import stored
from scan_tf.data.decoding import TWELVE_BITS, is_twelve_bits, size_of
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet, Split
from scan_tf.data.images import read_image
from scan_tf.data.listing import SUFFIXES, Listing, listing
from scan_tf.errors import ConfigError, DataError, MissingDataError

# A compromise between what a photo shows and what a CPU can train on.
DEFAULT_SIZE = 64
# Files whose size is looked at before all are read.
_SAMPLE = 100
_TRAIN_NAMES = ("train", "training")
# In the order in which they are taken for the test.
_TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation")
_log = logging.getLogger(__name__)

PRETEXT_IS_TRAIN = True


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load the images below `config.path` at `image_size`, 64 when not given.

    Each image is resized and cropped to its centre square; the order is that of the sorted paths.
    Normalised with the statistics of ImageNet. "pretext" is "train".

    Raises:
        ConfigError: `data.path` is not given.
        DataError: it is no folder, it holds no image that can be read, or, with `data.strict`,
            one that cannot.
        MissingDataError: the folder does not exist.
    """
    train, test = _find_splits(config.path, warn=split != "test")
    root = test if split == "test" else train
    if root is None:
        return None
    found = _listed(root)
    found.report(where=f"{root}: ", allowed=not config.strict)
    files = found.files
    names = _class_names(train, files if root == train else listing([train]).files)
    if split == "test":
        files, names = _of_known_classes(files, root, names)
    size = config.image_size or DEFAULT_SIZE
    _warn_of_small(root, files, size)
    _warn_of_twelve_bits(root, files)
    images, kept, skipped = stored.of_files(files, size, config, where=f"{root}: ")
    ids = {name: i for i, name in enumerate(names)}
    labels = np.array([ids[_class_of(p, root) or ""] for p in kept], np.int64) if names else None
    return ImageSet(
        name="folder",
        split=split,
        images=images,
        labels=labels,
        class_names=names,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        paths=tuple(map(str, kept)),
        skipped=tuple(map(str, skipped)),
    )


def check(config: DataConfig) -> None:
    """Refuse a folder that is not there or holds no images; raises as `load`."""
    train, _ = _find_splits(config.path)
    _listed(train)


def count(config: DataConfig) -> int:
    """How many files there are to learn from, readable or not; raises as `load`."""
    train, _ = _find_splits(config.path)
    return len(_listed(train).files)


def _listed(root: Path) -> Listing:
    """What lies in the folder of a split. Raises DataError where there is no image."""
    found = listing([root])
    if not found.files:
        found.report(where=f"{root}: ")
        raise DataError(f"{root}: no images. Looked for {', '.join(sorted(SUFFIXES))} in it.")
    return found


def _find_splits(path: str | None, *, warn: bool = False) -> tuple[Path, Path | None]:
    """The folders of train and of test; the second is None where there is none."""
    if path is None:
        raise ConfigError("data.path: data.name 'folder' needs it: data.path: FOLDER OF IMAGES.")
    root = Path(path)
    if not root.exists():
        raise MissingDataError(f"{root}: no such folder (data.path).")
    if not root.is_dir():
        raise DataError(f"{root}: data.path must be a folder of images, this is a file.")
    folders = _folders(root)
    trains = [p for p in folders if p.name.lower() in _TRAIN_NAMES]
    tests = sorted(
        (p for p in folders if p.name.lower() in _TEST_NAMES),
        key=lambda p: _TEST_NAMES.index(p.name.lower()),
    )
    if len(trains) == 1 and (tests or folders == trains):
        others = [f"{p.name}/" for p in folders if p not in (*trains, *tests[:1])]
        if warn and others:
            taken = f"{trains[0].name}/ and {tests[0].name}/"
            _log.warning("%s: takes %s, and leaves out %s.", root, taken, ", ".join(others))
        return trains[0], tests[0] if tests else None
    if len(trains) + len(tests) > 1:
        names = ", ".join(f"{p.name}/" for p in (*trains, *tests))
        raise DataError(
            f"{root}: {names} are called like splits, and are no pair of one for training and one "
            "for the test. Rename them, or give one of them as data.path."
        )
    return root, None


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_names(train: Path, images: Sequence[Path]) -> tuple[str, ...]:
    """Names of the labels, those of training images that can be read; () where there are none."""
    members: dict[str | None, list[Path]] = {}
    for path in images:
        members.setdefault(_class_of(path, train), []).append(path)
    read = {name for name, files in members.items() if any(map(_is_readable, files))}
    if len(read - {None}) < 2:
        return ()
    if None in read:
        _log.warning("%s: some images lie beside the class folders: no labels.", train)
        return ()
    return tuple(sorted(name for name in read if name is not None))


def _is_readable(file: Path) -> bool:
    try:
        read_image(file)
    except DataError:
        return False
    return True


def _of_known_classes(
    files: list[Path], test: Path, names: tuple[str, ...]
) -> tuple[list[Path], tuple[str, ...]]:
    """The test images that can be scored and the labels' names; all and () where none can be."""
    known = [path for path in files if _class_of(path, test) in names]
    if not known or len(known) == len(files):
        return files, names if known else ()
    strange = {_class_of(path, test) or "no folder" for path in files} - set(names)
    _log.warning(
        "%s: left out %d images of classes that no training image has: %s.",
        *(test, len(files) - len(known), ", ".join(sorted(strange))),
    )
    return known, names


def _class_of(path: Path, root: Path) -> str | None:
    first, *rest = path.relative_to(root).parts
    return first if rest else None


def _warn_of_small(root: Path, files: Sequence[Path], size: int) -> None:
    """Warn where most images, of a sample, are enlarged: that costs and shows nothing more."""
    sides = []
    for file in files[:: -(-len(files) // _SAMPLE)]:
        with contextlib.suppress(Exception):  # reported when it is read
            sides.append(min(size_of(file)))
    side = int(np.median(sides)) if sides else size
    if side < size:
        _log.warning(
            "%s: most images are smaller than data.image_size=%d, about %d pixels: they are "
            "enlarged. A network that was trained on photos may well see more then; one that "
            "learns from these images takes %.1f times as long as with data.image_size=%d.",
            *(root, size, side, (size / side) ** 2, side),
        )


def _warn_of_twelve_bits(root: Path, files: Sequence[Path]) -> None:
    """Warn where some images, of a sample, are brightened because they use few of 16 bits."""
    known = [is_twelve_bits(file) for file in files[:: -(-len(files) // _SAMPLE)]]
    if True in known:
        _log.warning(
            "%s: %d of %d images of 16 bits that were looked at have no value above %d: such "
            "images are taken for 12 bits, so that %d is white.",
            *(root, known.count(True), len(known) - known.count(None), TWELVE_BITS, TWELVE_BITS),
        )
