"""Your own images: any folder, with or without sub-folders.

Sub-folders are labels, which serve evaluation only. Where the layout leaves a choice:

* `train/` beside `test/`, `val/` or `validation/` are the splits, and so is `train/` when it is the
  only sub-folder. Otherwise everything is "train" and there is no "test".
* The label is the first folder below the split; deeper folders are searched but name nothing.
* Images beside the class folders have no label, so then the set has none (a warning says so). One
  single sub-folder is no label either: there would be nothing to tell apart.
* Files that cannot be read are skipped and listed, or refused with `data.strict`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scan_tf.config import DataConfig
from scan_tf.data.decoding import Limits, size_of
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet, Split
from scan_tf.data.images import (
    SUFFIXES,
    allocate,
    list_images,
    read_fitted,
    report_unreadable,
)
from scan_tf.errors import ConfigError, DataError, MissingDataError

# A compromise between what a photo shows and what a CPU can train on.
DEFAULT_SIZE = 64
# Files whose size is looked at before all are read.
_SAMPLE = 100
_TEST_NAMES = ("test", "val", "validation")
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
    train, test = _find_splits(config.path)
    root = test if split == "test" else train
    if root is None:
        return None
    files = list_images([root])
    if not files:
        raise DataError(f"{root}: no images. Looked for {', '.join(sorted(SUFFIXES))} in it.")
    names = _class_names([r for r in (train, test) if r is not None])
    size = config.image_size or DEFAULT_SIZE
    _warn_of_small(root, files, size)
    images, kept, skipped = _read_all(files, size, Limits(config.max_megapixels, config.decode_mib))
    errors = list(skipped.values())
    report_unreadable(errors, len(files), where=f"{root}: ", allowed=not config.strict)
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
    if not list_images([train]):
        raise DataError(f"{train}: no images. Looked for {', '.join(sorted(SUFFIXES))} in it.")


def _find_splits(path: str | None) -> tuple[Path, Path | None]:
    """The folders of train and of test; the second is None where there is none."""
    if path is None:
        raise ConfigError("data.path: data.name 'folder' needs it: data.path: FOLDER OF IMAGES.")
    root = Path(path)
    if not root.exists():
        raise MissingDataError(f"{root}: no such folder (data.path).")
    if not root.is_dir():
        raise DataError(f"{root}: data.path must be a folder of images, this is a file.")
    train = root / "train"
    test = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if train.is_dir() and (test is not None or _folders(root) == [train]):
        return train, test
    return root, None


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_names(roots: Sequence[Path]) -> tuple[str, ...]:
    """Names of the labels, over all splits so that ids agree; () where there are no labels."""
    found = {(root, _class_of(path, root)) for root in roots for path in list_images([root])}
    names = {name for _, name in found if name is not None}
    if len(names) < 2:
        return ()
    loose = [root for root, name in found if name is None]
    if loose:
        _log.warning("%s: some images lie beside the class folders: no labels.", loose[0])
        return ()
    return tuple(sorted(names))


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
            "enlarged. A network that learns from them takes %.1f times as long as with "
            "data.image_size=%d; one that was trained on photos may well see more.",
            *(root, size, side, (size / side) ** 2, side),
        )


def _read_all(
    files: Sequence[Path], size: int, limits: Limits
) -> tuple[np.ndarray, list[Path], dict[Path, DataError]]:
    """Images uint8 [N, size, size, 3] of the readable files, those files, and the others."""
    from tqdm import tqdm

    images, kept = allocate(len(files), size), list[Path]()
    skipped: dict[Path, DataError] = {}
    read = read_fitted(files, size, limits=limits)
    bar = tqdm(read, total=len(files), desc="reading images", disable=None, leave=False)
    for file, image in zip(files, bar, strict=True):
        if isinstance(image, DataError):
            skipped[file] = image
        else:
            images[len(kept)] = image
            kept.append(file)
    return images[: len(kept)], kept, skipped
