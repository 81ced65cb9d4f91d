"""Images a second from a folder of JPEGs to batches: the program beside `tf.data` alone.

`tf.data` reads and decodes the files in every epoch. The program does so once, into memory or into
a file of decoded images, and reads that in every epoch.

Examples:
    python scripts/bench_input.py --images 1000 --json input.json
    python scripts/bench_input.py --folder /data/photos --size 224
"""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import bench

if TYPE_CHECKING:
    import tensorflow as tf

    from scan_tf.data.image_set import ImageSet

# Of most photos of ImageNet.
WIDTH, HEIGHT, QUALITY = 500, 375, 90


def photos(folder: str, count: int) -> list[str]:
    """The JPEGs of a folder; so many are made up where there is no folder of that name.

    They are as large as most photos of ImageNet: 500 x 375 pixels, about 84 kB.
    """
    import numpy as np
    from PIL import Image

    root = Path(folder)
    if not root.exists():
        fresh = Path(tempfile.mkdtemp(dir=root.parent))
        random = np.random.default_rng(0)
        for number in range(count):
            coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
            image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            grain = random.normal(0, 11, (HEIGHT, WIDTH, 1))
            pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(fresh / f"{number:06d}.jpg", quality=QUALITY)
        fresh.rename(root)
    return [str(path) for path in sorted(root.iterdir())]


def copied(source: Path, target: Path, count: int) -> None:
    """Copies of at most `count` JPEGs from below a folder, so that all cases read the same ones."""
    target.mkdir()
    found = [p for p in sorted(source.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg")]
    for number, path in enumerate(found[:count]):
        shutil.copy(path, target / f"{number:06d}.jpg")


def centre(path: tf.Tensor, size: int) -> tf.Tensor:
    """The centre square of a JPEG file, uint8 [size,size,3], as `folder` makes it."""
    import tensorflow as tf

    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    image = tf.image.crop_to_bounding_box(
        image, (height - side) // 2, (width - side) // 2, side, side
    )
    image = tf.image.resize(image, [size, size], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)


def views_of(image: tf.Tensor) -> tf.Tensor:
    """Two views float32 [2,S,S,3] of an image uint8 [S,S,3], with the operations of SimCLR."""
    import tensorflow as tf

    size = image.shape[0]

    def one() -> tf.Tensor:
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            [size, size, 3],
            tf.zeros([1, 0, 4]),
            area_range=(0.2, 1),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        crop = tf.image.resize(
            tf.cast(tf.slice(image, begin, extent), tf.float32) / 255, [size] * 2
        )
        crop = tf.image.random_flip_left_right(crop)
        jittered = tf.image.random_brightness(crop, 0.4)
        jittered = tf.image.random_contrast(jittered, 0.6, 1.4)
        jittered = tf.image.random_saturation(jittered, 0.6, 1.4)
        jittered = tf.clip_by_value(tf.image.random_hue(jittered, 0.1), 0, 1)
        crop = tf.where(tf.random.uniform([]) < 0.8, jittered, crop)
        grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(crop))
        return tf.where(tf.random.uniform([]) < 0.2, grey, crop)

    return tf.stack([one(), one()])


def counted(epoch: Callable[[], None], images: int) -> bench.Run:
    """Runs `epoch`, and tells how many images a second of one core it makes."""

    def run() -> dict[str, float]:
        began = time.process_time()
        epoch()
        return {"a CPU second": images / (time.process_time() - began)}

    return run


def tf_data(
    folder: str, count: int, size: int, batch: int, *, views: bool, shuffled: bool = True
) -> bench.Run:
    """An epoch by tf.data alone, as its guide has it: parallel, and ahead of who takes them."""
    import tensorflow as tf

    files = photos(folder, count)
    data = tf.data.Dataset.from_tensor_slices(files)
    data = data.shuffle(len(files)) if shuffled else data
    data = data.map(functools.partial(centre, size=size), tf.data.AUTOTUNE)
    if views:
        data = data.map(
            lambda image: views_of(tf.ensure_shape(image, [size, size, 3])), tf.data.AUTOTUNE
        )
    data = data.batch(batch).prefetch(tf.data.AUTOTUNE)

    def run() -> None:
        if sum(len(images) for images in data) != len(files):
            raise ValueError("images are missing")

    return counted(run, len(files))


def images_of(folder: str, count: int, size: int, streaming: str, cache: str) -> ImageSet:
    """The images of the folder as a run of the program reads them."""
    from scan_tf.config import DataConfig
    from scan_tf.data import sources

    photos(folder, count)
    config = DataConfig("folder", path=folder, image_size=size, streaming=streaming, cache=cache)
    return cast("ImageSet", sources.load(config, "train"))


def once(folder: str, count: int, size: int, streaming: str) -> bench.Run:
    """What the program does before the first epoch: all files are decoded."""
    photos(folder, count)

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=Path(folder).parent) as cache:
            images_of(folder, count, size, streaming, cache)

    return counted(run, count)


def scan_tf(
    folder: str, count: int, size: int, batch: int, *, views: bool, streaming: str
) -> bench.Run:
    """An epoch of the program from what it has decoded."""
    import tensorflow as tf

    from scan_tf import machine
    from scan_tf.config import AugmentConfig, RuntimeConfig
    from scan_tf.methods.task import View
    from scan_tf.training.loader import Loader, Order

    images = images_of(folder, count, size, streaming, f"{folder}.cache")
    runtime = RuntimeConfig(resident_mib=0)
    order = Order(len(images), min(batch, len(images)), seed=0, neighbors=None)
    loader = Loader(
        images,
        {"views": View("simclr", count=2)},
        order,
        normalise=lambda x: x,
        augment_config=AugmentConfig(),
        runtime=runtime,
        device=machine.resolve(runtime),
    )
    prepare = tf.function(loader.prepare, autograph=False)
    epochs: Iterator[int] = iter(range(10**9))

    def run() -> None:
        start = next(epochs) * order.steps_per_epoch
        for inputs in loader.inputs(start, start + order.steps_per_epoch):
            if views:
                # Reading one number waits until they are made.
                float(prepare(inputs)["views"][0, 0, 0, 0])

    return counted(run, order.steps_per_epoch * order.batch_size)


def main(argv: list[str] | None = None) -> int:
    """Print the tables; see --help."""
    parser = bench.parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=1000, help="files, at most")
    parser.add_argument("--size", type=int, default=224, help="the side that images are made")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="of JPEGs, in place of made-up photos")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        folder, count = Path(place) / "photos", arguments.images
        if arguments.folder:
            copied(arguments.folder, folder, count)
            count = len(list(folder.iterdir()))
        where = {"folder": str(folder), "count": count, "size": arguments.size}
        # What is dropped at the end of an epoch does not count.
        full = count // arguments.batch * arguments.batch or count

        def case(group: str, name: str, make: Any, units: int, **more: Any) -> bench.Case:
            return bench.Case(group, name, make, where | more, units=units)

        batch = {"batch": arguments.batch}
        cases = [
            case("files, decoded", "tf.data", tf_data, count, views=False, **batch),
            case("files, decoded", "scan_tf into memory", once, count, streaming="never"),
            case("files, decoded", "scan_tf into a file", once, count, streaming="always"),
        ]
        for group, views in (("an epoch of batches", False), ("an epoch of two views", True)):
            cases.append(case(group, "tf.data", tf_data, count, views=views, **batch))
            for name, streaming in (("memory", "never"), ("file", "always")):
                how = {"views": views, "streaming": streaming, **batch}
                cases.append(case(group, f"scan_tf from {name}", scan_tf, full, **how))
        bench.main(cases, arguments, "images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
