"""The classifier for LiteRT and ONNX; what runs them is an extra, and their tests skip without."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from scan_tf.errors import ConfigError, StageError
from scan_tf.features import outliers
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.resnet import ResNet
from scan_tf.pipeline import formats, savedmodel
from scan_tf.pipeline.doubt import Doubt

SIZE, CLUSTERS = 16, 4


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A SavedModel that tells images apart, with names and thresholds."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    network = ResNet(
        blocks=(1, 1, 1, 1), stem="cifar", width=4, image_size=SIZE,
        mean=(0.5,) * 3, std=(0.25,) * 3, dtype="float32",
    )  # fmt: skip
    heads = ClusterHeads(1, CLUSTERS)
    heads.build((None, network.feature_dim))
    for variable in heads.variables:
        variable.assign(random.normal(0, 2, variable.shape))
    folder = tmp_path_factory.mktemp("formats") / "export"
    bank = outliers.reference(np.abs(random.normal(size=(20, network.feature_dim))))
    doubt = Doubt(bank.bank, bank.far, below=0.5, how="as set")
    savedmodel.save(folder, network, heads, names=["a", "", "", ""], doubt=doubt, card="# A card")
    return folder


def images(count: int) -> np.ndarray:
    """Noise of all brightnesses and colours."""
    random = np.random.default_rng(1)
    tint = random.uniform(0, 255, (count, 1, 1, 3))
    noise = random.normal(0, 40, (count, SIZE, SIZE, 3))
    return (tint + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("name", "files"), [
    ("litert", ["model-float16.tflite", "model.tflite"]),
    ("onnx", ["model.onnx"]),
])  # fmt: skip
def test_other_formats_give_the_same_clusters(exported, tmp_path, name, files) -> None:
    for package in formats.PACKAGES[name]:
        pytest.importorskip(package, reason=f"needs the extra {name}")
    found = formats.convert(exported, tmp_path / "other", name, images(1000))
    assert sorted(found) == files
    assert found[files[-1]] < 1e-3
    written = sorted(p.name for p in (tmp_path / "other").iterdir())
    assert written == sorted([*files, "MODEL_CARD.md", "model.json"])


def test_one_signature_converts_to_tflite(exported) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(exported), signature_keys=["native"])
    assert len(converter.convert()) > 10_000


def test_other_results_are_refused() -> None:
    random = np.random.default_rng(2)
    probs = random.dirichlet(np.ones(3), 50).astype(np.float32)
    expected = {"probabilities": probs, "cluster": probs.argmax(1)}
    assert formats.compared("x", expected, dict(expected), 1e-3) == 0
    for wrong in (probs + 0.01, probs[:, ::-1], probs * np.nan):
        got = {"probabilities": wrong, "cluster": wrong.argmax(1)}
        with pytest.raises(StageError, match="x: puts .* of 50 images into another cluster"):
            formats.compared("x", expected, got, 1e-3)


def test_missing_packages_are_named(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"onnx: needs tf2onnx, onnxruntime.*scan-tf\[onnx\]"):
        formats.check("onnx")
    formats.check("savedmodel")


def test_a_version_that_fails_is_not_served(exported, tmp_path, monkeypatch) -> None:
    assert formats.serve(exported, tmp_path / "base").name == "1"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        formats.serve(exported, tmp_path / "base")
    assert [p.name for p in (tmp_path / "base").iterdir()] == ["1"]
