"""ImageNet (ILSVRC 2012), or the part of it that `data.classes` names.

`data.path` is the usual tree, `train/n01440764/*.JPEG` and `val/n01440764/*.JPEG`, or the data
directory of tensorflow-datasets with `imagenet2012` prepared. The test images are those of the
validation. The short side is resized to 256 pixels and the centre of 224 is cut out (other sizes in
that proportion), as in the official SCAN code.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from scan_tf.config import DataConfig
from scan_tf.data import stored, tfds
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet, Split
from scan_tf.data.imagenet_subsets import SUBSETS
from scan_tf.data.listing import listing
from scan_tf.errors import DataError, MissingDataError

SIZE, FITTED = 224, 256
_BUILDER = "imagenet2012"
_FOLDERS = {"pretext": "train", "train": "train", "test": "val"}
_WNID = re.compile(r"n\d{8}")

PRETEXT_IS_TRAIN = True


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load a split, 224x224; "pretext" is "train", "test" the validation.

    Raises:
        ConfigError: `data.path` is needed.
        MissingDataError: neither the tree nor the prepared set is there.
        DataError: a class of the subset has no folder, or no image can be read.
    """
    size = config.image_size or SIZE
    fitted = round(size * FITTED / SIZE)
    root = _tree(config)
    if root is None:
        return tfds.load_set(
            _BUILDER,
            config,
            split,
            name="imagenet",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            fitted=fitted,
            size=size,
            classes=SUBSETS.get(config.classes),
        )
    folder = root / _FOLDERS[split]
    if not folder.is_dir():
        return None
    names = _classes(folder, config)
    files = [file for name in names for file in sorted(listing([folder / name]).files)]
    images, kept, skipped = stored.of_files(files, size, config, where=f"{folder}: ", fitted=fitted)
    ids = {name: label for label, name in enumerate(names)}
    return ImageSet(
        name="imagenet",
        split=split,
        images=images,
        labels=np.array([ids[file.relative_to(folder).parts[0]] for file in kept], np.int64),
        class_names=names,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        paths=tuple(map(str, kept)),
        skipped=tuple(map(str, skipped)),
    )


def check(config: DataConfig) -> None:
    """Refuse images that are not there; raises as `load`."""
    root = _tree(config)
    if root is None:
        tfds.check(config, _BUILDER)
    else:
        _classes(root / "train", config)


def _tree(config: DataConfig) -> Path | None:
    """The folder with `train/`; None where tensorflow-datasets is to be asked."""
    if config.path is None:
        return None
    root = Path(config.path)
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder (data.path).")
    if (root / "train").is_dir():
        return root
    if not (root / _BUILDER).is_dir():
        raise MissingDataError(
            f"{root}: expected train/ and val/ with a folder for each WordNet id in them, or "
            f"{_BUILDER}/ as tensorflow-datasets prepares it."
        )
    return None


def _classes(folder: Path, config: DataConfig) -> tuple[str, ...]:
    """The folders of the classes, sorted by their WordNet ids, which is the order of the labels."""
    there = sorted(path.name for path in folder.iterdir() if _WNID.fullmatch(path.name))
    wanted = SUBSETS.get(config.classes, tuple(there))
    missing = sorted(set(wanted) - set(there))
    if missing or not wanted:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{folder}: no folder for {len(missing)} of the {len(wanted)} classes of "
            f"{config.classes}: {some}."
            if missing
            else f"{folder}: no folder is named by a WordNet id, such as n01440764."
        )
    return wanted
