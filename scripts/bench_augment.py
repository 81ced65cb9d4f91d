"""Augmentation: the policies and every operation of the strong one, beside Pillow image by image.

Example:
    python scripts/bench_augment.py --size 32 --batch 512 --json augment.json
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import bench

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

POLICIES = ("weak", "simclr", "strong")
# The operations of the strong policy and the range of their magnitude (SCAN, supplement).
RANGES = {
    "Identity": (0.0, 1.0),
    "AutoContrast": (0.0, 1.0),
    "Equalize": (0.0, 1.0),
    "Rotate": (-30.0, 30.0),
    "Solarize": (0.0, 256.0),
    "Color": (0.05, 0.95),
    "Contrast": (0.05, 0.95),
    "Brightness": (0.05, 0.95),
    "Sharpness": (0.05, 0.95),
    "ShearX": (-0.1, 0.1),
    "TranslateX": (-0.1, 0.1),
    "TranslateY": (-0.1, 0.1),
    "Posterize": (4.0, 8.0),
    "ShearY": (-0.1, 0.1),
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def pixels(batch: int, size: int) -> np.ndarray:
    """Images uint8 [B,S,S,3] with smooth parts, as photographs have."""
    import numpy as np

    small = np.random.default_rng(0).integers(0, 256, (batch, 4, 4, 3), np.uint8)
    times = -(-size // 4)
    return small.repeat(times, 1).repeat(times, 2)[:, :size, :size].copy()


# Pillow


def pillow_policy(policy: str, batch: int, size: int) -> bench.Run:
    """What a data set of PyTorch does for every image: from the array to the normalised array."""
    import numpy as np
    from PIL import Image

    images = pixels(batch, size)
    draw = random.Random(0)
    change = {"weak": pillow_weak, "simclr": pillow_simclr, "strong": pillow_strong}[policy]
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)

    def run() -> None:
        for image in images:
            changed = np.asarray(change(Image.fromarray(image), draw), np.float32) / 255
            normalised = (changed - mean) / std
            if policy == "strong":
                cutout(normalised.transpose(2, 0, 1), draw)

    return run


def pillow_weak(image: Image.Image, draw: random.Random) -> Image.Image:
    """Random crop after four pixels of reflect padding, flip."""
    import numpy as np
    from PIL import Image, ImageOps

    size = image.width
    padded = Image.fromarray(np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), "reflect"))
    left, top = draw.randint(0, 8), draw.randint(0, 8)
    image = padded.crop((left, top, left + size, top + size))
    return ImageOps.mirror(image) if draw.random() < 0.5 else image


def pillow_simclr(image: Image.Image, draw: random.Random) -> Image.Image:
    """Random resized crop, flip, colour jitter in random order, greyscale."""
    from PIL import Image, ImageEnhance, ImageOps

    size = image.width
    for _ in range(10):
        area = size * size * draw.uniform(0.2, 1)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width <= size and height <= size:
            break
    else:
        width = height = size
    left, top = draw.randint(0, size - width), draw.randint(0, size - height)
    box = image.crop((left, top, left + width, top + height))
    image = box.resize((size, size), Image.Resampling.BILINEAR)
    if draw.random() < 0.5:
        image = ImageOps.mirror(image)
    if draw.random() < 0.8:
        kinds = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, pillow_hue]
        for kind in draw.sample(kinds, 4):
            if kind is pillow_hue:
                image = pillow_hue(image, draw.uniform(-0.1, 0.1))
            else:
                image = kind(image).enhance(draw.uniform(0.6, 1.4))
    return image.convert("L").convert("RGB") if draw.random() < 0.2 else image


def pillow_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the hue by a part of a full circle."""
    import numpy as np
    from PIL import Image

    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int16) + int(turns * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def pillow_strong(image: Image.Image, draw: random.Random) -> Image.Image:
    """Flip, then four operations drawn with replacement; the hole comes after normalising."""
    from PIL import ImageOps

    return four_ops(ImageOps.mirror(image) if draw.random() < 0.5 else image, draw)


def four_ops(image: Image.Image, draw: random.Random) -> Image.Image:
    """Four operations drawn with replacement."""
    for name in draw.choices(list(RANGES), k=4):
        image = pillow_op(name, image, draw.uniform(*RANGES[name]))
    return image


def cutout(pixels: Any, draw: random.Random) -> Any:
    """A square hole in a normalised image [3,S,S], which is changed and returned."""
    size = pixels.shape[1]
    side = draw.randint(1, size // 2)
    top, left = (max(0, draw.randrange(size) - side // 2) for _ in range(2))
    pixels[:, top : top + side, left : left + side] = 0
    return pixels


def pillow_op(name: str, image: Image.Image, magnitude: float) -> Image.Image:
    """One operation of the strong policy."""
    from PIL import Image, ImageEnhance, ImageOps

    width, height = image.size
    moves = {
        "ShearX": (1, magnitude, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, magnitude, 1, 0),
        "TranslateX": (1, 0, magnitude * width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, magnitude * height),
    }
    if name in moves:
        return image.transform(image.size, Image.Transform.AFFINE, moves[name])
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(magnitude)
    others: dict[str, Callable[[], Image.Image]] = {
        "Identity": lambda: image,
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Rotate": lambda: image.rotate(magnitude),
        "Solarize": lambda: ImageOps.solarize(image, magnitude),
        "Posterize": lambda: ImageOps.posterize(image, int(magnitude)),
    }
    return others[name]()


def pillow_one_op(name: str, batch: int, size: int) -> bench.Run:
    """One operation on images that are open already."""
    from PIL import Image

    images = [Image.fromarray(image) for image in pixels(batch, size)]
    draw = random.Random(0)

    def run() -> None:
        for image in images:
            pillow_op(name, image, draw.uniform(*RANGES[name]))

    return run


# torchvision


def torchvision_policy(policy: str, batch: int, size: int) -> bench.Run:
    """The same with torchvision's transforms on PIL images."""
    from PIL import Image
    from torchvision import transforms

    colour = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
    draw = random.Random(0)
    flip = transforms.RandomHorizontalFlip()
    crop = transforms.RandomResizedCrop(size, (0.2, 1.0))
    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    change = transforms.Compose(
        {
            "weak": [transforms.RandomCrop(size, padding=4, padding_mode="reflect"), flip, *last],
            "simclr": [crop, flip, colour, transforms.RandomGrayscale(0.2), *last],
            "strong": [
                flip,
                transforms.RandomCrop(size),
                functools.partial(four_ops, draw=draw),
                *last,
                functools.partial(cutout, draw=draw),
            ],
        }[policy]
    )
    images = pixels(batch, size)

    def run() -> None:
        for image in images:
            change(Image.fromarray(image))

    return run


# scan_tf


def scan_tf_policy(policy: str, batch: int, size: int, jit: bool, backend: str) -> bench.Run:
    """The program's own loader: from images uint8 to a normalised batch, one view."""
    import numpy as np
    import tensorflow as tf

    from scan_tf.config import AugmentConfig, RuntimeConfig
    from scan_tf.data.image_set import ImageSet
    from scan_tf.machine import Device
    from scan_tf.methods.task import View
    from scan_tf.training.loader import Loader, Order

    images = ImageSet("made up", "train", pixels(batch, size), None, (), MEAN, STD, None)
    loader = Loader(
        images,
        {"view": View(policy)},
        Order(batch, batch, seed=0, neighbors=None),
        normalise=lambda pixels: (pixels - np.float32(MEAN)) / np.float32(STD),
        augment_config=AugmentConfig(backend=backend),
        runtime=RuntimeConfig(),
        device=Device("cpu", "float32", jit_step=jit, jit_augment=jit),
    )
    prepare = tf.function(loader.prepare, jit_compile=jit, autograph=False)
    steps = itertools.count()

    def run() -> None:
        step = next(steps)
        np.asarray(prepare(next(loader.inputs(step, step + 1)))["view"][0, 0, 0])

    return run


def scan_tf_op(name: str, batch: int, size: int) -> bench.Run:
    """One operation on a whole batch, each image with a magnitude of its own, under XLA."""
    import numpy as np
    import tensorflow as tf

    from scan_tf.augment import ops

    levels = tf.cast(pixels(batch, size), tf.float32)
    kind = tf.fill([batch], list(ops.STRONG_OPS).index(name))
    magnitudes = tf.random.stateless_uniform([batch], [0, 1], *RANGES[name])
    apply = tf.function(ops.apply_ops, jit_compile=True, autograph=False)

    def run() -> None:
        np.asarray(apply(levels, kind, magnitudes)[0, 0, 0])

    return run


def main(argv: list[str] | None = None) -> int:
    """Print the tables; see --help."""
    parser = bench.parser(__doc__)
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=512)
    arguments = parser.parse_args(argv)
    shape = {"batch": arguments.batch, "size": arguments.size}
    case = functools.partial(bench.Case, units=arguments.batch)
    cases = []
    for policy in POLICIES:
        options: dict[str, Any] = {"policy": policy, **shape}
        device = {**options, "backend": "device"}
        cases.append(case(policy, "Pillow, one process", pillow_policy, options))
        cases.append(
            case(
                policy,
                "torchvision, one process",
                torchvision_policy,
                options,
                needs=("torchvision",),
            )
        )
        cases += [
            case(policy, "scan_tf", scan_tf_policy, {**device, "jit": True}),
            case(policy, "scan_tf without XLA", scan_tf_policy, {**device, "jit": False}),
            case(
                policy,
                "scan_tf on the host",
                scan_tf_policy,
                {**options, "backend": "host", "jit": False},
            ),
        ]
    for name in RANGES:
        options = {"name": name, **shape}
        cases.append(case(f"strong: {name}", "Pillow, one process", pillow_one_op, options))
        cases.append(case(f"strong: {name}", "scan_tf", scan_tf_op, options))
    bench.main(cases, arguments, "images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
