"""The tiny runs that are tortured: their settings and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRAINED = ("pretext", "scan", "selflabel")
_CONFIG: dict[str, Any] = {
    "name": "tiny",
    "model": {"backbone": "resnet10", "width": 4, "projection_dim": 8},
    "augment": {"crop_scale": [0.6, 1.0], "weak_padding": 1, "cutout": 2},
    "pretext": {"name": "simclr", "batch_size": 16},
    "neighbors": {"k": 3, "k_validation": 2, "index": "annoy", "n_trees": 5},
    # Views that are quickly compiled: half of the time of a run would go into the strong ones.
    "scan": {"batch_size": 16, "num_heads": 2, "optimizer": {"lr": 1e-3}, "augmentation": "weak"},
    "selflabel": {"batch_size": 16, "threshold": 0.35, "augmentation": "weak"},
    "evaluate": {"pictures": False, "kmeans_restarts": 2, "knn_k": 5},
    "runtime": {
        "dtype": "float32",
        "jit_compile": "never",
        "log_every": 2,
        "checkpoint_minutes": 1e-3,
        "progress": False,
        "tensorboard": False,
    },
}
# Every program of this one loads TensorFlow and compiles its steps, as users' do.
COMPILED = "compiled"
# Settings in which a case differs: each has state of another kind beside the weights.
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "simclr": {},
    "moco": {"pretext": {"name": "moco", "queue_size": 32}},
    "nce": {"pretext": {"name": "nce", "negatives": 8}},
    "byol": {"pretext": {"name": "byol"}, "scan": {"name": "temi"}},
    "feature_decoupling": {
        "pretext": {"name": "feature_decoupling", "negatives": 8},
        "selflabel": {"ema": 0.9},
    },
    "fixmatch": {
        "scan": {"head_epochs": 4},
        "selflabel": {"name": "fixmatch", "confidence": 0.3, "agreement": 0.3},
    },
    "cdc": {"selflabel": {"name": "cdc", "threshold": None}},
    COMPILED: {},
}


def write(run: Path, case: str, *, epochs: int) -> None:
    """Write the settings of a case into a new run directory, beside the folder of images."""
    tree = {**_CONFIG, "data": {"name": "folder", "image_size": 8}}
    tree["data"]["path"] = str(images(run.parent / "images"))
    for stage in TRAINED:
        changes = {"epochs": epochs, **CASES[case].get(stage, {})}
        tree[stage] = {k: v for k, v in {**tree[stage], **changes}.items() if v is not None}
    # JSON is YAML.
    (run / "config.yaml").write_text(json.dumps(tree), encoding="utf-8")


def images(folder: Path) -> Path:
    """Noisy squares of three kinds, for training and for tests."""
    if folder.exists():
        return folder
    import numpy as np
    from PIL import Image

    numbers = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for channel, kind in enumerate(("blue", "green", "red")):
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                pixels = numbers.integers(0, 100, (8, 8, 3))
                pixels[..., channel] += 120
                path = folder / split / kind / f"{number:02d}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder
