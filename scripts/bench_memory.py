"""Memory of a set that does not fit into it: looked at, learned from, embedded, searched.

Images lie in a file of decoded images, as `data.streaming=always` makes it. The peak of the process
after each part is compared with that after the same parts on 1,024 images, which TensorFlow and the
program need in any case. Ends with 1 where the rest is more than --limit-mib.

Example:
    python scripts/bench_memory.py --images 200000 --size 64 --limit-mib 1024 --json memory.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FEW = 1024


def main() -> int:
    """Measure, print, and compare with the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50, help="training steps of 256 images")
    parser.add_argument("--limit-mib", type=float, default=1024)
    parser.add_argument("--folder", type=Path, help="for the file (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = measure(Path(folder), arguments)
    few, all_ = (sum_of(rows, count) for count in (FEW, arguments.images))
    more = all_["peak_mib"] - few["peak_mib"]
    stored = arguments.images * arguments.size**2 * 3 / 2**20
    print(
        f"{arguments.images:,} images of {arguments.size} pixels ({stored:,.0f} MiB) take "
        f"{more:,.0f} MiB more than {FEW:,} do (limit {arguments.limit_mib:,.0f})"
    )
    if arguments.json:
        found = {"more_mib": more, "stored_mib": stored, "rows": rows, **vars(arguments)}
        arguments.json.write_text(json.dumps(found, indent=2, default=str) + "\n")
    return int(more > arguments.limit_mib)


def measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every part on few images, then on all; seconds, and the peak of the process after it."""
    from scan_tf import machine

    rows = []
    for count in (FEW, arguments.images):
        for name, part in parts(folder / str(count), count, arguments):
            start = time.perf_counter()
            part()
            row = {"images": count, "part": name, "seconds": time.perf_counter() - start}
            rows.append(row | {"peak_mib": machine.peak_memory_mib()})
            print("{images:9,} {part:12}{seconds:8.1f} s {peak_mib:7,} MiB".format(**rows[-1]))
    return rows


def sum_of(rows: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """The last row of a number of images: its peak is that of all parts."""
    return [row for row in rows if row["images"] == count][-1]


def parts(
    folder: Path, count: int, arguments: argparse.Namespace
) -> list[tuple[str, Callable[[], object]]]:
    """What a run does with all images, in its order."""
    import numpy as np

    from scan_tf.config import (
        AugmentConfig,
        DataConfig,
        NeighborsConfig,
        OptimizerConfig,
        RuntimeConfig,
        TrainConfig,
    )
    from scan_tf.data import image_set, quality, stored
    from scan_tf.features import neighbors
    from scan_tf.features.embedding import embed
    from scan_tf.machine import Device
    from scan_tf.methods.pretext import simclr
    from scan_tf.models.resnet import ResNet
    from scan_tf.pipeline import seen_images
    from scan_tf.training.loader import Loader, Order
    from scan_tf.training.loop import Trainer

    size, found = arguments.size, {}
    constants = {"mean": image_set.IMAGENET_MEAN, "std": image_set.IMAGENET_STD}
    backbone = ResNet((1, 1, 1, 1), stem="strided", width=16, image_size=size, **constants)
    device = Device("cpu", "float32", jit_step=False, jit_augment=True)

    def write() -> None:
        random = np.random.default_rng(0)
        coarse = random.integers(0, 256, (1000, size // 8, size // 8, 3), np.uint8)

        def fill(sink: stored.Sink) -> stored.Facts:
            for low in range(0, count, 1000):
                block = coarse[: count - low].repeat(8, axis=1).repeat(8, axis=2)
                sink.append(block ^ random.integers(0, 32, (len(block), 1, 1, 1), np.uint8))
            return {}

        config = DataConfig(streaming="always", cache=str(folder))
        images, _ = stored.load(config, count, size, fill, content=lambda: {"count": count})
        found["set"] = image_set.ImageSet("made", "train", images, None, (), **constants)

    def train() -> None:
        task = simclr.Method(
            simclr.Config(), backbone, projection_dim=64, num_images=len(found["set"])
        )
        batch = 256
        order = Order(len(found["set"]), batch, seed=0, neighbors=None)
        order.steps_per_epoch = min(order.steps_per_epoch, arguments.steps)
        runtime = RuntimeConfig(progress=False, tensorboard=False, resident_mib=1)
        loader = Loader(
            found["set"],
            task.views,
            order,
            normalise=task.normalise,
            augment_config=AugmentConfig(),
            runtime=runtime,
            device=device,
        )
        config = TrainConfig(epochs=1, batch_size=batch, optimizer=OptimizerConfig("sgd", lr=0.1))
        Trainer(task, loader, config, folder / "train", runtime=runtime, device=device).run()

    def features() -> None:
        found["rows"] = embed(backbone.embed, found["set"], batch_size=500)

    def mine() -> None:
        config = dataclasses.replace(NeighborsConfig(), index="auto")
        neighbors.mine(found["rows"], config, k=20, seed=0)

    return [
        ("write", write),
        ("quality", lambda: quality.look(found["set"].images)),
        ("digests", lambda: seen_images.digests(found["set"])),
        ("train", train),
        ("features", features),
        ("neighbours", mine),
    ]


if __name__ == "__main__":
    sys.exit(main())
