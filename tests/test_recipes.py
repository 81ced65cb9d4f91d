"""The shipped configs: all of them load, and the paper's carry the published settings."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from scan_tf import config
from scan_tf.config import ModelConfig
from scan_tf.data import sources
from scan_tf.features import neighbors
from scan_tf.methods import catalog
from scan_tf.methods.clustering import scan
from scan_tf.methods.selflabel import confident
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.resnet import build
from scan_tf.training.loader import Order
from scan_tf.training.optim import Optimizer

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.yaml"))
ADAM = {"name": "adam", "lr": 1e-4, "l2": 1e-4, "schedule": "constant", "clip_norm": 0.0}
SGD = {
    "name": "sgd",
    "lr": 0.4,
    "momentum": 0.9,
    "nesterov": False,
    "l2": 1e-4,
    "schedule": "cosine",
    "schedule_per": "epoch",
    "final_fraction": 1e-3,
    "warmup_epochs": 0.0,
    "clip_norm": 0.0,
}
# Of the three data sets: stem, epochs and batch of SCAN, epochs of self-label.
PUBLISHED = {
    "cifar10_simclr": ("cifar10", "cifar", 50, 128, 200),
    "cifar20_simclr": ("cifar20", "cifar", 100, 512, 200),
    "stl10_simclr": ("stl10", "stl", 100, 128, 100),
}


def load(name):
    path = pathlib.Path(__file__).parents[1] / "configs" / f"{name}.yaml"
    return config.load(path)


def differences(section, expected):
    """The settings of a section that are not as expected: name -> what it is."""
    is_now = config.to_dict(section)
    return {k: is_now[k] for k, v in expected.items() if is_now[k] != v}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_loads_and_says_how_to_run_it(path):
    settings = config.load(path)
    assert settings.name == path.stem
    assert settings.data.name in sources.available()
    assert f"scan-tf run --config {path.stem}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_schedule(name):
    data_name, stem, scan_epochs, scan_batch, selflabel_epochs = PUBLISHED[name]
    settings = load(name)
    assert settings.data.name == data_name
    assert (
        differences(
            settings.model,
            {"backbone": "resnet18", "stem": stem, "width": 64, "projection_dim": 128},
        )
        == {}
    )
    assert (
        differences(
            settings.augment,
            {
                "flip": 0.5,
                "crop_scale": [0.2, 1.0],
                "crop_ratio": [3 / 4, 4 / 3],
                "jitter": [0.4, 0.4, 0.4, 0.1],
                "jitter_probability": 0.8,
                "grayscale_probability": 0.2,
                "rotate": 0.0,
                "strong_ops": 4,
                "cutout": None,
            },
        )
        == {}
    )
    assert (
        differences(
            settings.pretext,
            {
                "name": "simclr",
                "epochs": 500,
                "batch_size": 512,
                "temperature": 0.1,
                "symmetric": False,
                "knn_every": 1,
            },
        )
        == {}
    )
    assert differences(settings.pretext.optimizer, SGD) == {}
    assert differences(settings.neighbors, {"k": 20, "k_validation": 5}) == {}
    assert (
        differences(
            settings.scan,
            {
                "epochs": scan_epochs,
                "batch_size": scan_batch,
                "num_clusters": None,
                "num_heads": 1,
                "entropy_weight": 5.0,
                "augmentation": "strong",
                "freeze_backbone": False,
                "cached_views": 0,
                "head_epochs": 0,
                "selection": "test",
            },
        )
        == {}
    )
    assert differences(settings.scan.optimizer, ADAM) == {}
    assert (
        differences(
            settings.selflabel,
            {
                "epochs": selflabel_epochs,
                "batch_size": 1000,
                "threshold": 0.99,
                "balanced": True,
                "augmentation": "strong",
                "ema": 0.0,
            },
        )
        == {}
    )
    assert differences(settings.selflabel.optimizer, ADAM) == {}


def test_rotnet_changes_nothing_but_the_pretext():
    rotnet, simclr = (config.to_dict(load(f"cifar10_{p}")) for p in ("rotnet", "simclr"))
    changed = {k for k in simclr if simclr[k] != rotnet[k]}
    assert changed == {"name", "pretext"}


@pytest.mark.parametrize("stage", ["pretext", "scan", "selflabel"])
def test_l2_decays_every_parameter(seeded, stage):
    """BatchNorm and biases included: without a gradient, a step of SGD is w - lr * l2 * w."""
    backbone = build(ModelConfig("resnet10", width=4), dtype="float32", image_size=8)
    heads = ClusterHeads(1, 3)
    heads(tf.zeros([1, backbone.feature_dim]))
    settings = load("cifar10_simclr")
    task = {
        "pretext": lambda: catalog.method_class("pretext", "simclr")(
            settings.pretext, backbone, projection_dim=8, num_images=8
        ),
        "scan": lambda: scan.Method(settings.scan, backbone, heads),
        "selflabel": lambda: confident.Method(settings.selflabel, backbone, heads),
    }[stage]()
    variables = task.trainable_variables
    kinds = {v.path.rpartition("/")[2] for v in variables}
    assert kinds == {"kernel", "gamma", "beta", "bias"}
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    optimizer = Optimizer(settings.pretext.optimizer, variables)
    optimizer.apply([tf.zeros(v.shape) for v in variables], tf.constant(0.4))
    for variable in variables:
        np.testing.assert_allclose(variable.numpy(), 1 - 0.4 * 1e-4, rtol=1e-6)


def test_an_image_is_drawn_as_its_own_neighbour_as_often_as_any_other():
    count, k = 4000, 4
    table = np.arange(count)[:, None] + count * np.arange(k + 1)  # the column can be read off
    order = Order(count, 1000, seed=3, neighbors=table.astype(np.int32))
    drawn = [order(step) for step in range(order.steps_per_epoch)]
    columns = np.concatenate([(d["neighbor"] - d["index"]) // count for d in drawn])
    shares = np.bincount(columns, minlength=k + 1) / count
    # Five standard deviations of a share.
    np.testing.assert_allclose(shares, 1 / (k + 1), atol=5 * math.sqrt(0.2 * 0.8 / count))


def test_the_image_itself_stays_in_the_table_of_neighbours(rng):
    rows = rng.standard_normal((50, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    mined = neighbors.mine(rows, config.NeighborsConfig(index="exact"), k=20, seed=0)
    assert mined.indices.shape == (50, 21)
    assert (mined.indices[:, 0] == np.arange(50)).all()


def test_the_last_images_of_an_epoch_are_dropped():
    order = Order(1100, 512, seed=0, neighbors=None)
    assert order.steps_per_epoch == 2
    seen = np.concatenate([order(step)["index"] for step in range(2)])
    assert len(np.unique(seen)) == 1024


@pytest.mark.parametrize(("classes", "batch_size"), [(50, 512), (100, 512), (200, 1024)])
def test_imagenet_by_heads_on_frozen_moco_features(classes, batch_size):
    settings = load(f"imagenet{classes}")
    assert (settings.data.name, settings.data.classes) == ("imagenet", f"imagenet{classes}")
    assert differences(settings.model, {"backbone": "resnet50", "stem": "imagenet"}) == {}
    assert (settings.pretext.name, settings.neighbors.k) == ("moco", 50)
    sgd = SGD | {"l2": 0.0, "schedule": "constant"}
    scan_is = {"epochs": 100, "batch_size": batch_size, "num_heads": 10, "freeze_backbone": True}
    scan_is |= {"augmentation": "simclr", "entropy_weight": 5.0}
    assert differences(settings.scan, scan_is) == {}
    selflabel_is = {"epochs": 25, "batch_size": 512, "balanced": False, "ema": 0.999}
    assert differences(settings.selflabel, selflabel_is) == {}
    unused = ("schedule_per", "final_fraction")
    for section, rate in ((settings.scan, 5.0), (settings.selflabel, 0.03)):
        expected = {k: v for k, v in sgd.items() if k not in unused} | {"lr": rate}
        assert differences(section.optimizer, expected) == {}
    assert settings.augment.cutout is None  # 75 at 224 pixels
