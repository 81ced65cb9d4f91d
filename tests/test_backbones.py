from __future__ import annotations

import functools
import pathlib

import numpy as np
import official_names
import pytest
import tensorflow as tf

from scan_tf.config import ModelConfig
from scan_tf.errors import DataError
from scan_tf.models import resnet
from scan_tf.models.heads import ProjectionHead
from scan_tf.models.torch_names import load_torch, torch_names

pytestmark = pytest.mark.usefixtures("seeded")

ORACLE = np.load(pathlib.Path(__file__).parent / "data" / "networks.npz")
IMAGES = {"cifar": "images32", "stl": "images96"}


@functools.lru_cache
def official_backbone() -> dict[str, np.ndarray]:
    return official_names.tensors(official_names.backbone())


def official(stem: str) -> tuple[resnet.ResNet, np.ndarray]:
    """The ResNet-18 with the values of the oracle, and the oracle's normalised images."""
    model = resnet.build(ModelConfig(stem=stem), dtype="float32")
    load_torch(model, official_backbone(), "backbone.")
    images = (ORACLE[IMAGES[stem]] / 255 - ORACLE["mean"]) / ORACLE["std"]
    return model, images.astype("float32")


def assert_same(ours, expected):
    """Agreement to 1e-4 of the largest value: what float32 sums in another order allow."""
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


# The same numbers as the official networks


@pytest.mark.parametrize("stem", IMAGES)
def test_outputs_are_the_official_ones(stem):
    model, images = official(stem)
    features = model(images)
    assert_same(features, ORACLE[f"{stem}_backbone_eval"])

    head = ProjectionHead(512, 512, 128)
    tensors = official_names.tensors(official_names.contrastive_head())
    load_torch(head, tensors, "contrastive_head.")
    assert_same(head(features), ORACLE[f"{stem}_projected_eval"])

    assert_same(model(images, training=True), ORACLE[f"{stem}_backbone_train"])
    after = model(images)
    assert_same(after, ORACLE[f"{stem}_backbone_eval_after_one_train_forward"])
    assert np.abs(after - features).max() > 0.01  # the running statistics did move


def test_names_are_those_of_the_official_checkpoint():
    model = resnet.build(ModelConfig(), dtype="float32")
    assert {f"backbone.{name}" for name in torch_names(model)} == official_backbone().keys()


def test_large_image_networks_are_named_as_in_torchvision():
    names = torch_names(tiny(backbone="resnet50", stem="imagenet"))
    assert "layer1.0.downsample.0.weight" in names
    assert "layer4.2.bn3.running_var" in names
    assert len(names) == 53 * 5  # 53 convolutions, each with a BatchNorm of four vectors


# Shapes and sizes


def tiny(**changes) -> resnet.ResNet:
    config = ModelConfig(**{"backbone": "resnet10", "width": 4, **changes})
    return resnet.build(config, dtype="float32")


def size(model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("backbone", "stem", "parameters"),
    [
        # torchvision's counts less those of the final layer (and, at the 3x3 stem, of the 7x7).
        ("resnet18", "cifar", 11_168_832),
        ("resnet18", "imagenet", 11_689_512 - 513_000),
        pytest.param("resnet34", "imagenet", 21_797_672 - 513_000, marks=pytest.mark.slow),
        pytest.param("resnet50", "imagenet", 25_557_032 - 2_049_000, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts(backbone, stem, parameters):
    model = resnet.build(ModelConfig(backbone=backbone, stem=stem), dtype="float32")
    assert size(model) == parameters
    assert model.feature_dim == (2048 if backbone == "resnet50" else 512)


@pytest.mark.parametrize(
    ("stem", "side", "sides"),
    [
        ("cifar", 32, [32, 16, 8, 4]),
        ("stl", 96, [49, 25, 13, 7]),
        ("imagenet", 64, [16, 8, 4, 2]),
    ],
)
def test_sides_of_the_stages(monkeypatch, stem, side, sides):
    model = tiny(stem=stem)
    seen = []
    for block in model.blocks:
        call = block.call

        def spy(x, training=False, call=call):
            y = call(x, training=training)
            seen.append(y.shape[1])
            return y

        monkeypatch.setattr(block, "call", spy)
    features = model(tf.zeros([2, side, side, 3]))
    assert sorted(set(seen), reverse=True) == sides
    assert features.shape == (2, model.feature_dim)


def test_max_pool_of_the_stl_stem_is_padded_by_one(rng):
    model = tiny(stem="stl")
    x = rng.standard_normal((2, 6, 6, 3)).astype("float32")
    stem = tf.nn.relu(model.bn1(model.conv1(x))).numpy()
    padded = np.pad(stem, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    expected = padded.reshape(2, 4, 2, 4, 2, 4).max((2, 4))
    model.blocks = []
    np.testing.assert_allclose(model(x), expected.mean((1, 2)), rtol=1e-5)


def test_the_stride_of_a_bottleneck_is_in_its_3x3():
    strided = [block for block in tiny(backbone="resnet50").blocks if block.convs[1].strides == 2]
    assert len(strided) == 3
    assert all([c.strides for c in block.convs] == [1, 2, 1] for block in strided)


# Variables


def test_variable_names_are_unique_and_stable():
    first, second = tiny(), tiny()
    names = [v.path for v in first.variables]
    assert len(set(names)) == len(names) == 5 * 12  # 12 convolutions with their BatchNorms
    assert names == [v.path for v in second.variables]
    assert "resnet/layer2.0/shortcut.0/kernel" in names


def test_every_parameter_gets_a_gradient(rng):
    model = tiny(backbone="resnet50", stem="stl")
    x = tf.constant(rng.standard_normal((4, 32, 32, 3)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True) ** 2)
    slopes = tape.gradient(loss, model.trainable_variables)
    assert all(slope is not None and np.isfinite(slope).all() for slope in slopes)


def test_values_of_the_variables_are_the_whole_state(rng):
    first, second = tiny(), tiny()
    x = rng.standard_normal((4, 16, 16, 3)).astype("float32")
    first(x, training=True)
    for new, old in zip(second.variables, first.variables, strict=True):
        new.assign(old)
    np.testing.assert_array_equal(second(x), first(x))


def test_inference_changes_nothing(rng):
    model = tiny()
    before = [v.numpy() for v in model.variables]
    model(rng.standard_normal((4, 16, 16, 3)).astype("float32"))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_load_torch_names_what_is_missing_and_assigns_nothing():
    model = tiny()
    before = model.conv1.kernel.numpy()
    with pytest.raises(DataError, match=r"59 of 60 tensors are missing.*'bn1.weight'"):
        load_torch(model, {"conv1.weight": np.zeros((4, 3, 3, 3))})
    np.testing.assert_array_equal(model.conv1.kernel, before)


def test_load_torch_refuses_another_width():
    wide = official_names.tensors(official_names.backbone((1, 1, 1, 1), width=8))
    with pytest.raises(DataError, match=r"'backbone.conv1.weight'.*\(3, 3, 3, 4\).*\(3, 3, 3, 8\)"):
        load_torch(tiny(), wide, "backbone.")


# Precision and compilation


def test_bfloat16_is_close_to_float32(rng):
    exact = resnet.build(ModelConfig(width=16), dtype="float32")
    mixed = resnet.build(ModelConfig(width=16), dtype="mixed_bfloat16")
    for new, old in zip(mixed.variables, exact.variables, strict=True):
        assert new.dtype == "float32"
        new.assign(old)
    x = rng.standard_normal((8, 16, 16, 3)).astype("float32")
    ours, expected = mixed(x, training=True), exact(x, training=True)
    assert ours.dtype == tf.float32
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    assert 0 < error < 0.05


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_equals_eager(rng, jit_compile):
    eager, compiled = tiny(stem="stl"), tiny(stem="stl")
    for new, old in zip(compiled.variables, eager.variables, strict=True):
        new.assign(old)
    x = tf.constant(rng.standard_normal((4, 16, 16, 3)), tf.float32)
    call = tf.function(lambda x: compiled(x, training=True), jit_compile=jit_compile)
    assert_same(call(x), eager(x, training=True))
    for ours, other in zip(compiled.variables, eager.variables, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-5)
