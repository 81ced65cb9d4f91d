"""Write the files of tensorflow-datasets from a folder of images, without a network.

What is written is what `tfds.load` reads everywhere: the registered builder of the data set does
the writing itself, with its own version, features and shards; only the source of the examples is
replaced. A name that tensorflow-datasets does not know gets a builder made from the folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scan_tf import machine
from scan_tf.data.images import read_image, resize_and_crop
from scan_tf.data.listing import list_images
from scan_tf.data.sets import cifar10, cifar20, stl10
from scan_tf.errors import ConfigError, DataError, MissingDataError
from scan_tf.settings.schema import did_you_mean
from scan_tf.storage.files import replacing
from scan_tf.storage.writing import delete

# The sets of tensorflow-datasets that can be written, each with the labels of its builder.
LABELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cifar10": {"label": cifar10.CLASS_NAMES},
    "cifar100": {"label": cifar20.FINE_NAMES, "coarse_label": cifar20.CLASS_NAMES},
    "stl10": {"label": stl10.CLASS_NAMES},
}
# Splits of tensorflow-datasets and the folder names they may have.
_FOLDERS = {"train": ("train",), "test": ("test",), "unlabelled": ("unlabelled", "unlabeled")}
_COARSE_FILE = "fine_to_coarse.json"
_log = logging.getLogger(__name__)


def prepare(
    source: str | Path,
    name: str,
    data_dir: str | Path | None = None,
    *,
    skip_unreadable: bool = False,
) -> Path:
    """Write the data set `name` of tensorflow-datasets from a folder of images.

    The images are `source/train/CLASS/*` and, optionally, `source/test/CLASS/*`; stl10 may also
    have `source/unlabelled/*`. Class folders are matched with the labels of the data set by name.
    Images of another size than the data set's are resized and cropped to it. For cifar100 (also
    written `cifar20`) `source/fine_to_coarse.json` replaces the standard superclasses.

    Args:
        source: the folder of images.
        name: cifar10, cifar100, stl10, or a name that tensorflow-datasets does not know, whose
            labels are then the names of the class folders.
        data_dir: data directory of tensorflow-datasets; None: its default.
        skip_unreadable: leave out images that cannot be read, and list them, instead of refusing.

    Returns:
        The directory that holds the data set now.

    Raises:
        ConfigError: the name cannot be used.
        DataError: the folder is not laid out as described, images cannot be read (all of them are
            listed), or the data set is there already.
        MissingDataError: `source` does not exist.
    """
    import tensorflow_datasets as tfds

    source, name = Path(source), "cifar100" if name == "cifar20" else name
    splits = _find_splits(source, name)
    builder = _builder(name, None if data_dir is None else Path(data_dir), splits)
    features, place = builder.info.features, Path(builder.data_path)
    if place.exists():
        raise DataError(
            f"{place}: '{name}' is there already. Remove that folder to write it "
            "again, or give another --data-dir."
        )
    coarse = _read_coarse(source) if "coarse_label" in features else {}
    _check_classes(splits, tuple(features["label"].names))

    files = _readable(splits, skip_unreadable)

    def split_generators(_: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {s: _examples(s, folder, files[s], features, coarse) for s, folder in splits.items()}

    # The set appears whole; what a killed program leaves of it goes with the next call.
    with tempfile.TemporaryDirectory() as scratch, replacing(place) as fresh:
        builder = _builder(name, fresh / "made", splits)
        features = builder.info.features
        # Replaced on the object, not in a subclass: dataset_info.json then names the real builder.
        builder._split_generators = split_generators
        builder.download_and_prepare(
            download_dir=scratch,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
        for path in Path(builder.data_path).iterdir():
            os.replace(path, fresh / path.name)
        delete(fresh / "made")
    return place


def _builder(name: str, data_dir: Path | None, splits: Mapping[str, Path]) -> Any:
    """What writes the set into a data directory, with its labels."""
    import tensorflow_datasets as tfds

    target = None if data_dir is None else str(data_dir)
    if name not in LABELS:
        return _new_builder(name, target, splits)
    builder = tfds.builder(name, data_dir=target)
    for key, names in LABELS[name].items():
        builder.info.features[key].names = list(names)
    return builder


def _find_splits(source: Path, name: str) -> dict[str, Path]:
    """Split of the data set -> folder, for the folders that hold images."""
    if not source.is_dir():
        raise MissingDataError(f"{source}: no such folder of images (--from).")
    allowed = [s for s in _FOLDERS if s != "unlabelled" or name == "stl10"]
    found = {
        split: source / folder
        for split in allowed
        for folder in _FOLDERS[split]
        if list_images([p for p in [source / folder] if p.is_dir()])
    }
    if "train" not in found:
        raise DataError(
            f"{source}: expected images in {source / 'train'}/CLASS/ (and {source / 'test'}/CLASS/)"
            f", found {sorted(p.name for p in source.iterdir())[:8]}."
        )
    return found


def _check_classes(splits: Mapping[str, Path], names: tuple[str, ...]) -> None:
    for split, folder in splits.items():
        if split == "unlabelled":
            continue
        for path in list_images([folder]):
            name = _class_of(path, folder)
            if name is None:
                raise DataError(f"{path}: expected a class folder around it, {folder}/CLASS/.")
            if name not in names:
                raise DataError(
                    f"{folder / name}: '{name}' is no class of the data set. "
                    f"{did_you_mean(name, names)}"
                )


def _class_of(path: Path, folder: Path) -> str | None:
    first, *rest = path.relative_to(folder).parts
    return first if rest else None


def _readable(splits: Mapping[str, Path], skip: bool) -> dict[str, list[Path]]:
    """The images of every split. Refuses, or with `skip` leaves out, what cannot be read."""

    def problem(path: Path) -> DataError | None:
        try:
            read_image(path)
        except DataError as error:
            return error
        return None

    files = {split: list_images([folder]) for split, folder in splits.items()}
    with machine.threads() as pool:
        problems = {split: list(pool.map(problem, paths)) for split, paths in files.items()}
    bad = [str(error) for found in problems.values() for error in found if error is not None]
    if bad:
        text = "\n  ".join([f"{len(bad)} images cannot be read:", *bad])
        if not skip:
            raise DataError(f"{text}\nRemove them, or add --skip-unreadable.")
        _log.warning("%s\nThey are left out.", text)
    return {
        split: [p for p, error in zip(paths, problems[split], strict=True) if error is None]
        for split, paths in files.items()
    }


def _examples(
    split: str, folder: Path, files: list[Path], features: Any, coarse: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(key, example) of every image of a split, as the features of the builder ask."""
    height, *_ = features["image"].shape
    for index, path in enumerate(files):
        image = read_image(path)
        if height is not None and image.shape != tuple(features["image"].shape):
            image = resize_and_crop(image, height).numpy()
        # The builder of STL-10 gives -1 to unlabelled images.
        label = -1 if split == "unlabelled" else _class_of(path, folder)
        example: dict[str, Any] = {"image": image, "label": label}
        if "id" in features:
            example["id"] = f"{split}_{index:05d}"
        if "coarse_label" in features:
            example["coarse_label"] = coarse[str(label)]
        yield index, example


def _read_coarse(source: Path) -> dict[str, str]:
    """Fine class -> superclass of CIFAR-100, from the source or the standard one."""
    path, standard = source / _COARSE_FILE, dict(cifar20.FINE_TO_COARSE)
    if not path.exists():
        return standard
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(given, dict):
        raise DataError(f"{path}: expected an object, class -> superclass.")
    for fine, coarse in given.items():
        if fine not in standard:
            raise DataError(f"{path}: '{fine}' is no class. {did_you_mean(fine, standard)}")
        if coarse not in cifar20.CLASS_NAMES:
            hint = did_you_mean(str(coarse), cifar20.CLASS_NAMES)
            raise DataError(f"{path}: '{fine}' has superclass {coarse!r}, unknown. {hint}")
    return standard | given


def _new_builder(name: str, data_dir: str | None, splits: Mapping[str, Path]) -> Any:
    """A builder whose labels are the class folders, for images of any shape."""
    import tensorflow_datasets as tfds

    known = sorted(LABELS)
    if name in tfds.list_builders():
        raise ConfigError(
            f"--as '{name}': tensorflow-datasets has a set of that name, whose files this command "
            f"cannot write. It writes {', '.join(known)}, and sets of your own under a new name."
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ConfigError(f"--as '{name}': expected lower_case words, such as my_photos.")
    names = {_class_of(p, f) or "" for f in splits.values() for p in list_images([f])} - {""}
    return tfds.dataset_builders.AdhocBuilder(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=sorted(names)),
            }
        ),
        split_datasets={},
        data_dir=data_dir,
        description="Images from a folder; the labels are the names of its sub-folders.",
    )
