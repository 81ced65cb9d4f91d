"""Write the files of tensorflow-datasets from a folder of images, without a network.

What is written is what `tfds.load` reads everywhere: the registered builder of the data set does
the writing itself, with its own version, features and shards; only the source of the examples is
replaced. A name that tensorflow-datasets does not know gets a builder made from the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scan_tf.config import did_you_mean
from scan_tf.data import cifar10
from scan_tf.data.images import list_images, read_image, resize_and_crop
from scan_tf.errors import DataError, MissingDataError


def prepare(source: Path, name: str, data_dir: Path | None = None) -> Path:
    """Write the data set `name` of tensorflow-datasets from images in `source`."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    features = builder.info.features
    names = cifar10.CLASS_NAMES
    features["label"].names = list(names)

    def split_generators(_: Any) -> dict[str, Any]:
        return {s: examples(s) for s in ("train", "test")}

    def examples(split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, p in enumerate(list_images([source / split])):
            yield i, {
                "id": f"{split}_{i:05d}",
                "image": read_image(p),
                "label": p.parent.name,
            }

    builder._split_generators = split_generators
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_path)
