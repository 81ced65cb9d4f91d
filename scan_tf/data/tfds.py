"""Any image data set of tensorflow-datasets, by its name or as `tfds:NAME`.

`read` is also how cifar10, cifar20 and stl10 are read. Images come in the order of the files, which
is the same on every machine and in every run: shards are read one after the other, unshuffled.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.config import DataConfig
from scan_tf.data import sources, stored
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, Images, ImageSet, Split
from scan_tf.data.images import resize_and_crop
from scan_tf.errors import ConfigError, DataError, MissingDataError
from scan_tf.settings.schema import did_you_mean

# Side for sets whose images have no common shape, when `data.image_size` is not given.
DEFAULT_SIZE = 64
_BATCH = 500
# ImageNet has at most 1,300 images of a class, of which alone parts are read.
_MOST_OF_A_CLASS = 1300
# Sets of tensorflow-datasets that `scan-tf prepare` writes (test_data_prepare.py compares them).
_PREPARABLE = ("cifar10", "cifar100", "stl10")


@dataclasses.dataclass(frozen=True)
class Arrays:
    """What `read` returns: images uint8 [N, S, S, 3], labels int64 [N] or None, class names."""

    images: Images
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load `config.name`, normalised with the statistics of ImageNet.

    Raises:
        ConfigError: tensorflow-datasets has no such set, or it holds no images.
        MissingDataError: the set is not prepared on this machine.
    """
    builder, mean, std = config.name.removeprefix("tfds:"), IMAGENET_MEAN, IMAGENET_STD
    return load_set(builder, config, split, name=config.name, mean=mean, std=std)


def load_set(
    builder_name: str,
    config: DataConfig,
    split: Split,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    name: str | None = None,
    label: str = "label",
    size: int | None = None,
    fitted: int | None = None,
    classes: tuple[str, ...] | None = None,
) -> ImageSet | None:
    """One split of the set `builder_name` as an ImageSet.

    "pretext" is train, followed by the unlabelled images where there are any; "test" may be called
    validation. None when the set has no such split.

    Args:
        builder_name: name in tensorflow-datasets.
        config: gives the data directory and the image size.
        split: which split.
        mean: of the images in 0..1.
        std: of the images in 0..1.
        name: what the ImageSet is called; None: as the builder.
        label: the feature that holds the label.
        size: side of the images where it is not that of the config.
        fitted: the side to which they are resized, of which the middle is cut out; None: `size`.
        classes: names of the labels to keep, in the order of the new labels; None: all.

    Raises:
        ConfigError: tensorflow-datasets has no such set, or it holds no images.
        DataError: the files of the set are damaged, or a class is not in it.
        MissingDataError: the set is not prepared on this machine.
    """
    builder = open_builder(builder_name, config.path)
    splits = _stored_splits(split, builder.info.splits)
    if not splits:
        return None
    arrays = read(builder, splits, config, label=label, size=size, fitted=fitted, classes=classes)
    return ImageSet(
        name=name or builder_name,
        split=split,
        images=arrays.images,
        labels=arrays.labels,
        class_names=arrays.class_names,
        mean=mean,
        std=std,
    )


def open_builder(name: str, data_dir: str | None) -> Any:
    """The tfds builder of a set that is prepared in `data_dir` (None: the default of tfds).

    Raises:
        ConfigError: tensorflow-datasets has no such set, or it holds no images.
        MissingDataError: the set is not prepared; the message names the two ways to do it.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ConfigError(
            f"data.name: no data set '{name}'. {did_you_mean(name, sources.available())} Names of "
            "tensorflow-datasets work too; for your own images use data.name: folder with "
            "data.path: FOLDER."
        ) from error
    _image_key(builder)
    if not builder.is_prepared():
        raise MissingDataError(_how_to_prepare(name, data_dir, builder.data_path))
    return builder


def check(config: DataConfig, name: str | None = None) -> None:
    """Refuse a set that is not prepared, by a look at folders alone.

    Args:
        config: gives the name and the data directory.
        name: in tensorflow-datasets; None: that of the config.

    Raises:
        ConfigError: nothing of that name is prepared, and none of the known sets has it.
        MissingDataError: the set is not prepared; the message names the two ways to do it.
    """
    name = name or config.name.removeprefix("tfds:")
    root = Path(config.path or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    folder = root.expanduser() / name.partition(":")[0]  # without a version
    if config.path is not None and not root.is_dir():
        raise MissingDataError(f"{root}: no such folder (data.path).")
    if any(folder.glob("**/dataset_info.json")):
        return
    if name.partition(":")[0].partition("/")[0] not in known():
        raise ConfigError(
            f"data.name: no data set '{name}', and nothing is prepared in {folder}. "
            f"{did_you_mean(name, sources.available(), near=known())} What tensorflow-datasets has "
            "prepared works by its name too; for your own images use data.name: folder with "
            "data.path: FOLDER."
        )
    raise MissingDataError(_how_to_prepare(name, config.path, folder))


def known() -> set[str]:
    """Names of tensorflow-datasets, as far as the folders of its installation show them.

    Those that share a file with others are not among them.
    """
    found = importlib.util.find_spec("tensorflow_datasets")
    roots = [Path(root) for root in found.submodule_search_locations or ()] if found else []
    names = {path.stem for root in roots for path in (root / "url_checksums").glob("*.txt")}
    return names | {path.name for root in roots for path in (root / "datasets").glob("[a-z]*")}


def read(
    builder: Any,
    splits: tuple[str, ...],
    config: DataConfig,
    *,
    label: str = "label",
    size: int | None = None,
    fitted: int | None = None,
    classes: tuple[str, ...] | None = None,
) -> Arrays:
    """Read splits of a prepared set, one after the other.

    Args:
        builder: from `open_builder`.
        splits: names of splits in the set.
        config: gives the side S of the result (None: the set's own, or 64 where the shapes
            differ), and where it is held.
        label: the feature that holds the label.
        size: the side, where it is not that of the config.
        fitted: as for `load_set`.
        classes: as for `load_set`.

    Raises:
        DataError: the files of the set are damaged, or a class is not in it.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from tqdm import tqdm

    image, has_label = _image_key(builder), _is_label(builder, label)
    side = size or config.image_size or _native_size(builder.info.features[image].shape)
    fitted = fitted or side
    middle = slice((fitted - side) // 2, (fitted - side) // 2 + side)
    names = tuple(builder.info.features[label].names or ()) if has_label else ()
    new_label = _kept(builder, names, classes)

    def fit(example: dict[str, Any]) -> tuple[Any, Any]:
        pixels = resize_and_crop(_to_rgb(example[image]), fitted)[middle, middle]
        old = example[label] if has_label else tf.constant(-1, tf.int64)
        return pixels, old if classes is None else tf.gather(new_label, old)

    # Shard after shard: the default mixes sixteen of them.
    order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(split="+".join(splits), shuffle_files=False, read_config=order)
    if classes is not None:
        dataset = dataset.filter(lambda example: tf.gather(new_label, example[label]) >= 0)
    batches = dataset.map(fit, num_parallel_calls=tf.data.AUTOTUNE).batch(_BATCH).prefetch(2)

    count = sum(builder.info.splits[s].num_examples for s in splits)
    if classes is not None:  # those of the others are not read; how many there are is not known
        count = min(count, _MOST_OF_A_CLASS * len(classes))

    def fill(sink: stored.Sink) -> stored.Facts:
        labels: list[int] = []
        with tqdm(total=count, desc=f"reading {builder.name}", disable=None, leave=False) as bar:
            try:
                for pixels, ids in batches.as_numpy_iterator():
                    sink.append(pixels)  # batch by batch, so that nothing is held twice
                    labels += ids.tolist()
                    bar.update(len(ids))
            except tf.errors.OpError as error:
                raise DataError(
                    f"{builder.data_path}: damaged after {len(labels)} of {count} images "
                    f"({error.message}). Remove that folder and prepare the set again."
                ) from error
        return {"labels": labels}

    def content() -> dict[str, Any]:
        paths = [Path(p) for s in splits for p in builder.info.splits[s].filepaths]
        known = {"files": stored.digest_of_files(paths), "label": label}
        return known | {"fitted": fitted, "classes": classes}

    images, facts = stored.load(config, count, side, fill, content=content)
    labels = np.array(facts["labels"], np.int64)
    names = names if classes is None else classes
    return Arrays(images, labels if has_label and labels.min() >= 0 else None, names)


def _kept(builder: Any, names: tuple[str, ...], classes: tuple[str, ...] | None) -> Any:
    """The new label int64 of every old one, -1 of those to leave out."""
    if classes is None:
        return None
    missing = sorted(set(classes) - set(names))
    if missing:
        raise DataError(f"{builder.data_path}: has no class {', '.join(missing[:5])}.")
    new = {name: label for label, name in enumerate(classes)}
    return np.array([new.get(name, -1) for name in names], np.int64)


def _stored_splits(split: Split, known: Collection[str]) -> tuple[str, ...]:
    """What the splits are called in the set; () where it has no such split."""
    if split == "test":
        return tuple(s for s in ("test", "validation") if s in known)[:1]
    if "train" not in known:
        return ()
    extra = ("unlabelled",) if split == "pretext" and "unlabelled" in known else ()
    return ("train", *extra)


def _image_key(builder: Any) -> str:
    import tensorflow_datasets as tfds

    features = builder.info.features
    # Images may also be stored as floats, of no known range.
    keys = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image) and feature.np_dtype in (np.uint8, np.uint16)
    ]
    if not keys:
        raise ConfigError(f"data.name: '{builder.name}' of tensorflow-datasets holds no images.")
    return "image" if "image" in keys else keys[0]


def _is_label(builder: Any, key: str) -> bool:
    import tensorflow_datasets as tfds

    features = builder.info.features
    return key in features and isinstance(features[key], tfds.features.ClassLabel)


def _native_size(shape: tuple[int | None, ...]) -> int:
    sides = set(shape[:2])
    return sides.pop() or DEFAULT_SIZE if len(sides) == 1 else DEFAULT_SIZE


def _to_rgb(image: Any) -> Any:
    """uint8 [H, W, 3] of an image uint8 or uint16 [H, W, 1 | 3 | 4]."""
    import tensorflow as tf

    if image.dtype == tf.uint16:
        image = tf.cast(image // 257, tf.uint8)
    return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


def _how_to_prepare(name: str, data_dir: str | None, looked_in: Any) -> str:
    where = f", data_dir='{data_dir}'" if data_dir else ""
    option = f" --data-dir {data_dir}" if data_dir else ""
    offline = (
        "without one, from a folder of images FOLDER/train/CLASS/*, FOLDER/test/CLASS/*, run\n"
        f"  scan-tf prepare --from FOLDER --as {name}{option}\n"
        if name in _PREPARABLE
        else "without one, use its images with data.name: folder and data.path: FOLDER.\n"
    )
    return (
        f"the data set '{name}' is not prepared: nothing in {looked_in}. With a network, run\n"
        f'  python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}'{where}).download_and_prepare()\"\n"
        f"{offline}"
        "If it is prepared elsewhere, set data.path to that directory of tensorflow-datasets."
    )
