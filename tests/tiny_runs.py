"""A configuration on which the whole program takes seconds, and images for it.

`finished` in conftest.py is a run of it with all stages done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from scan_tf import cli

CLASSES = ("blue", "green", "red")
PER_CLASS = {"train": 20, "test": 5}
SIZE = 8
# Enough epochs that a stage can be killed in the middle; enough checkpoints to go on from.
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "folder", "image_size": SIZE},
    "model": {"backbone": "tiny_networks.one_block", "width": 4, "projection_dim": 8},
    "augment": {"crop_scale": [0.6, 1.0], "weak_padding": 1, "cutout": 2, "strong_ops": 1},
    "pretext": {"name": "simclr", "epochs": 20, "batch_size": 16},
    "neighbors": {"k": 3, "k_validation": 2},
    "scan": {"epochs": 12, "batch_size": 16, "num_heads": 2, "optimizer": {"lr": 1e-3}},
    "selflabel": {"epochs": 12, "batch_size": 16, "threshold": 0.4},
    "evaluate": {"pictures": False, "kmeans_restarts": 2, "knn_k": 5},
    "runtime": {
        "dtype": "float32",
        "jit_compile": "never",
        "log_every": 2,
        "checkpoint_minutes": 2e-3,
        "progress": False,
        "tensorboard": False,
    },
}


def scan_tf(*arguments: Any) -> int:
    """Run the program in this process."""
    with own_handler():
        return cli.main([str(a) for a in arguments])


@contextlib.contextmanager
def own_handler() -> Iterator[None]:
    """The program sets a handler of SIGTERM, which is to end with it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_config(path: Path, images: Path, *overrides: str) -> Path:
    """CONFIG for the images of a folder, as YAML; `overrides` as on the command line."""
    from scan_tf import config

    tree = CONFIG | {"data": CONFIG["data"] | {"path": str(images)}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    if overrides:
        changed = config.load(path, overrides)
        path.write_text(config.dump(changed), encoding="utf-8")
    return path


def write_images(folder: Path, count: int, channel: int, seed: int) -> Path:
    """`count` noisy squares, brighter in one channel: kinds that a network can tell apart."""
    folder.mkdir(parents=True)
    random = np.random.default_rng([seed, channel])
    for number in range(count):
        pixels = random.integers(0, 100, (SIZE, SIZE, 3))
        pixels[..., channel] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def write_splits(root: Path) -> Path:
    """`train/` and `test/` with a folder for each of CLASSES."""
    for seed, (split, count) in enumerate(PER_CLASS.items()):
        for channel, name in enumerate(CLASSES):
            write_images(root / split / name, count, channel, seed)
    return root


def copy(run: Path, target: Path, *, without: str | None = None) -> Path:
    """A copy of a run directory to change, `without` a stage and those after it."""
    shutil.copytree(run, target)
    if without is not None:
        opened(target).redo(without)
    return target


def opened(run: Path, *overrides: str) -> Any:
    """The `Run` of a run directory."""
    from scan_tf import config
    from scan_tf.pipeline.run_dir import Run

    path = run / "config.yaml"
    return Run(config.load(path, overrides), run)


def reseal(run: Path, stage: str) -> None:
    """Let files that a test has changed pass for what the stage wrote."""
    from scan_tf.pipeline import record

    changed = opened(run)
    sealed = record.seals(changed.folder(stage))
    record.write(run, stage, dataclasses.replace(changed.record(stage), files=sealed))


def weights(run: Path, stage: str) -> dict[str, np.ndarray]:
    """The arrays of a stage's `weights.npz`, the manifest left out."""
    with np.load(run / stage / "weights.npz") as file:
        return {k: file[k] for k in file.files if k != "manifest"}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below, to see what a command has touched."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}
