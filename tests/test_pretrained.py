from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from scan_tf.config import ModelConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import ConfigError, DataError, MissingDataError
from scan_tf.features import cache
from scan_tf.models import pretrained
from scan_tf.models.efficientnet_lite import EfficientNetLite
from scan_tf.models.frozen import Frozen

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    # Keras 3.15 saves its variables in the way of NumPy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]

SIZE = 32


def pixels(rng, size=SIZE, count=2):
    return rng.integers(0, 256, (count, size, size, 3)).astype(np.float32)


def features(backbone, x):
    """What a run computes of pixels 0..255."""
    return backbone((x / 255 - np.float32(backbone.mean)) / np.float32(backbone.std)).numpy()


def assert_same(ours, expected, tolerance=1e-4):
    expected = np.asarray(expected)
    assert np.ptp(expected) > 1e-3  # the images are told apart
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# Names


@pytest.mark.parametrize("name", ["lite3", "keras", "keras:", "resnet50", "no/such/file", ""])
def test_unknown_names(name):
    with pytest.raises(ConfigError, match="is no file and no name. Give lite0, lite1, lite2"):
        pretrained.load_pretrained(name, SIZE)


def test_an_unknown_network_of_keras():
    with pytest.raises(ConfigError, match="'keras:ResNet51' is unknown. Did you mean 'ResNet5"):
        pretrained.load_pretrained("keras:ResNet51", SIZE)


# Keras Applications


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Random weights of MobileNet, where its download would put them."""
    model = keras.applications.MobileNet(
        include_top=False, weights=None, pooling="avg", input_shape=(SIZE, SIZE, 3)
    )
    for variable in model.variables:
        if "moving_variance" not in variable.path:
            variable.assign(variable + keras.random.normal(variable.shape, stddev=0.05))
    path = tmp_path / "mobilenet.weights.h5"
    model.save_weights(path)
    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", lambda *_, **__: str(path))
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined or non-square")  # not 128 to 224
def test_a_network_of_keras_applications(rng, downloads):
    backbone = pretrained.load_pretrained("keras:MobileNet", SIZE)
    assert (backbone.feature_dim, backbone.image_size) == (1024, SIZE)
    assert backbone.provenance.labels is True
    assert "MobileNet" in backbone.provenance.name
    x = pixels(rng)
    expected = downloads(keras.applications.mobilenet.preprocess_input(x.copy()), training=False)
    assert_same(features(backbone, x), expected)
    half = backbone.copy("mixed_bfloat16")
    difference = features(half, x) - expected
    assert 1e-5 < np.linalg.norm(difference) / np.linalg.norm(expected) < 0.05
    with pytest.raises(ValueError, match="is frozen"):
        backbone(x, training=True)
    assert keras.config.dtype_policy().name == "float32"


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def get_file(*_, **__):
        raise OSError("URL fetch failure")

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", get_file)
    with pytest.raises(
        MissingDataError, match="'keras:ResNet50' is not on this machine.*URL fetch"
    ):
        pretrained.load_pretrained("keras:ResNet50", SIZE)


def test_a_size_that_a_network_does_not_take():
    with pytest.raises(ConfigError, match="'keras:ResNet50' cannot be used .*32"):
        pretrained.load_pretrained("keras:ResNet50", 16)


# KerasHub


def test_kerashub_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ConfigError, match=r"'hub:dinov2_small' needs KerasHub.*scan-tf\[hub\]"):
        pretrained.load_pretrained("hub:dinov2_small", SIZE)


def test_a_preset_of_kerashub(rng, tmp_path):
    hub = pytest.importorskip("keras_hub", reason="needs KerasHub: pip install 'scan-tf[hub]'")
    encoder = hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=2,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=64,
        image_shape=(28, 28, 3),
        position_embedding_shape=(56, 56, 3),
    )
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    converter = hub.layers.DINOV2ImageConverter(
        image_size=(28, 28),
        scale=list(1 / 255 / deviation),
        offset=list(-mean / deviation),
    )
    folder = tmp_path / "dinov2_tiny"
    encoder.save_to_preset(str(folder))
    converter.save_to_preset(str(folder))
    backbone = pretrained.load_pretrained(f"hub:{folder}", None)
    assert (backbone.feature_dim, backbone.image_size) == (32, 28)
    assert backbone.provenance.labels is False
    np.testing.assert_allclose(backbone.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(backbone.std, deviation, rtol=1e-6)
    x = pixels(rng, 28)
    expected = encoder({"images": converter(x)}, training=False)[:, 0]
    assert_same(features(backbone, x), expected)
    difference = features(backbone.copy("mixed_bfloat16"), x) - expected
    assert 1e-5 < np.linalg.norm(difference) / np.linalg.norm(expected) < 0.05
    large = pretrained.load_pretrained(f"hub:{folder}", 42)
    assert features(large, pixels(rng, 42)).shape == (2, 32)


def test_a_preset_that_knows_texts_too(rng, tmp_path):
    hub = pytest.importorskip("keras_hub", reason="needs KerasHub: pip install 'scan-tf[hub]'")
    sizes = {"num_layers": 2, "num_heads": 2, "intermediate_dim": 32}
    model = hub.models.CLIPBackbone(
        vision_encoder=hub.models.CLIPVisionEncoder(8, 16, image_shape=(SIZE, SIZE, 3), **sizes),
        text_encoder=hub.models.CLIPTextEncoder(
            vocabulary_size=64, embedding_dim=16, hidden_dim=16, max_sequence_length=8, **sizes
        ),
        projection_dim=12,
    )
    converter = hub.layers.CLIPImageConverter(image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1)
    folder = tmp_path / "clip_tiny"
    model.save_to_preset(str(folder))
    converter.save_to_preset(str(folder))
    backbone = pretrained.load_pretrained(f"hub:{folder}")
    x = pixels(rng)
    assert_same(features(backbone, x), model.get_vision_embeddings(x / 127.5 - 1))
    assert backbone.feature_dim == 12
    assert backbone.provenance.labels is None
    paths = [v.path for v in backbone.variables]
    assert 0 < len(paths) < len(model.variables)
    assert not any("text" in path for path in paths)
    with pytest.raises(ConfigError, match="cannot be used on images of 64 x 64"):
        pretrained.load_pretrained(f"hub:{folder}", 64)


# Files


def small_model(size=None, output="vector"):
    layers = [
        keras.layers.Rescaling(1 / 127.5, offset=-1),
        keras.layers.Conv2D(5, 3, strides=2, activation="relu"),
        keras.layers.BatchNormalization(),
    ]
    if output == "vector":
        layers.append(keras.layers.GlobalAveragePooling2D())
    return keras.Sequential([keras.Input((size, size, 3)), *layers])


@pytest.mark.parametrize("output", ["vector", "map"])
def test_a_keras_file(rng, tmp_path, output):
    model = small_model(output=output)
    model.save(tmp_path / "a.keras")
    backbone = pretrained.load_pretrained(str(tmp_path / "a.keras"), SIZE)
    x = pixels(rng)
    expected = model(x).numpy()
    expected = expected if output == "vector" else expected.mean((1, 2))
    assert_same(features(backbone, x), expected)
    half = features(backbone.copy("mixed_bfloat16"), x)
    assert 1e-5 < np.abs(half - expected).max() < 0.05 * np.abs(expected).max()
    assert backbone.provenance.labels is None
    assert "not known" in backbone.provenance.trained


def test_the_size_of_a_keras_file(tmp_path):
    small_model(SIZE).save(tmp_path / "fixed.keras")
    assert pretrained.load_pretrained(str(tmp_path / "fixed.keras")).image_size == SIZE
    with pytest.raises(ConfigError, match="takes images of 32 pixels only, not of 64"):
        pretrained.load_pretrained(str(tmp_path / "fixed.keras"), 64)
    small_model().save(tmp_path / "any.keras")
    with pytest.raises(ConfigError, match="takes images of any size; say of which"):
        pretrained.load_pretrained(str(tmp_path / "any.keras"))


def test_a_keras_file_cannot_run_code(tmp_path):
    code = keras.layers.Lambda(lambda x: x * 2)
    keras.Sequential([keras.Input((8, 8, 3)), code]).save(tmp_path / "a.keras")
    with pytest.raises(DataError, match=r"a.keras: cannot be read as a file of Keras .*Lambda"):
        pretrained.load_pretrained(str(tmp_path / "a.keras"), 8)


def test_files_of_keras_that_take_no_images(tmp_path):
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]).save(tmp_path / "a.keras")
    with pytest.raises(ConfigError, match=r"takes \(None, 8\), expected images"):
        pretrained.load_pretrained(str(tmp_path / "a.keras"), 8)
    (tmp_path / "b.keras").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"b.keras: cannot be read"):
        pretrained.load_pretrained(str(tmp_path / "b.keras"), 8)


class Module(tf.Module):
    def __init__(self, dtype, *outputs):
        super().__init__()
        self.kernel = tf.Variable(tf.random.normal([3, 3, 3, 4]))
        shape = tf.TensorSpec([None, None, None, 3], dtype, name="images")
        self.serve = tf.function(self.run, input_signature=[shape])
        self.outputs = outputs

    def run(self, images):
        maps = tf.nn.conv2d(tf.cast(images, tf.float32), self.kernel, 1, "SAME")
        found = tf.reduce_mean(tf.nn.relu(maps), [1, 2])
        return {name: found * (i + 1) for i, name in enumerate(self.outputs)}


@pytest.mark.parametrize("outputs", [("vector",), ("cluster", "features")])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_saved_model(rng, tmp_path, dtype, outputs):
    module = Module(dtype, *outputs)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.serve)
    backbone = pretrained.load_pretrained(str(tmp_path / "m"), SIZE)
    x = pixels(rng)
    given = x.astype(dtype) if dtype == "uint8" else x / 255
    assert_same(features(backbone, x), module.run(given)[outputs[-1]])
    assert len(backbone.variables) == 1
    with pytest.raises(ConfigError, match="computes as it was saved, not in mixed_bfloat16"):
        backbone.copy("mixed_bfloat16")


def test_saved_models_that_do_not_fit(tmp_path):
    module = Module("uint8", "one", "two")
    tf.saved_model.save(module, str(tmp_path / "two"), signatures=module.serve)
    with pytest.raises(ConfigError, match=r"returns \['one', 'two'\]; expected 'features'"):
        pretrained.load_pretrained(str(tmp_path / "two"), SIZE)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(DataError, match="bad: cannot be read as a SavedModel"):
        pretrained.load_pretrained(str(tmp_path / "bad"), SIZE)


# State dicts of PyTorch


def torch_layouts():
    """Layout -> (ResNet of two stages' depth, its state dict, its stem, the function it is)."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")
    import torch_networks
    from torch import nn

    torch.manual_seed(0)

    def network(stem):
        model = torch_networks.ResNet((1, 1, 1, 1), stem=stem).eval()
        for name, tensor in model.state_dict().items():
            if name.endswith(("weight", "bias")) and tensor.ndim == 1:
                tensor.add_(0.2 * torch.randn(tensor.shape))
        return model

    def named(model, prefix, rename=str, **extra):
        return {prefix + rename(n): t for n, t in model.state_dict().items()} | extra

    cifar, large, solo = network("cifar"), network("imagenet"), network("cifar")
    solo.conv1.padding = (2, 2)
    stages = [cifar.layer1, cifar.layer2, cifar.layer3, cifar.layer4, nn.AdaptiveAvgPool2d(1)]
    own = nn.Sequential(cifar.conv1, cifar.bn1, *stages, nn.Flatten())
    stages = [large.layer1, large.layer2, large.layer3, large.layer4, nn.AdaptiveAvgPool2d(1)]
    theirs = nn.Sequential(large.conv1, large.bn1, nn.ReLU(), large.maxpool, *stages, nn.Flatten())
    heads = {"classifier.weight": torch.ones(2, 2), "projector.0.weight": torch.ones(2, 2)}
    return {
        "torchvision": (named(large, ""), "imagenet", large),
        "compiled": (named(large, "_orig_mod.module."), "imagenet", large),
        "moco": (named(large, "module.encoder_q.") | named(large, "module.encoder_k."),)
        + ("imagenet", large),
        "scan": (named(cifar, "backbone."), "cifar", cifar),
        "solo-learn": (
            named(solo, "backbone.", lambda n: n.replace("shortcut", "downsample"), **heads),
            "cifar",
            solo,
        ),
        "solo-learn, large": (named(large, "backbone.", **heads), "imagenet", large),
        "lightly": (named(own, "backbone."), "cifar", own),
        "lightly, compiled": (named(own, "backbone._orig_mod."), "cifar", own),
        "lightly, torchvision": (named(theirs, "backbone."), "imagenet", theirs),
    }


@pytest.mark.parametrize(
    ("layout", "wrapped"),
    [("torchvision", False), ("compiled", True), ("moco", True), ("scan", False)]
    + [("solo-learn", True), ("solo-learn, large", False), ("lightly", False), ("lightly", True)]
    + [("lightly, compiled", False), ("lightly, torchvision", True)],
)
def test_layouts_of_pytorch(rng, tmp_path, layout, wrapped):
    torch = pytest.importorskip("torch")
    state, stem, reference = torch_layouts()[layout]
    content = {"epoch": 3, "state_dict": state} if wrapped else state
    torch.save(content, tmp_path / "a.ckpt")
    model = ModelConfig(backbone="resnet10", stem=stem, width=4)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    how = {"model": model, "mean": mean, "std": std}
    backbone = pretrained.load_pretrained(str(tmp_path / "a.ckpt"), SIZE, **how)
    x = pixels(rng)
    normalised = ((x / 255 - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = reference(torch.from_numpy(normalised)).numpy()
    assert_same(features(backbone, x), expected)


def test_state_dicts_that_do_not_fit(tmp_path):
    torch = pytest.importorskip("torch")
    state, *_ = torch_layouts()["scan"]
    torch.save(state, tmp_path / "a.pth")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    known = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(ConfigError, match=r"model: .*a.pth does not fit backbone=resnet18"):
        pretrained.load_pretrained(str(tmp_path / "a.pth"), SIZE, **known)
    with pytest.raises(ConfigError, match="does not say what images it takes"):
        pretrained.load_pretrained(str(tmp_path / "a.pth"), SIZE)
    with pytest.raises(DataError, match="linear.pth: holds no ResNet"):
        pretrained.load_pretrained(str(tmp_path / "linear.pth"), SIZE, **known)


# What a run does with them


def lite():
    return EfficientNetLite("lite0", SIZE)


def of_keras(folder):
    small_model().save(folder / "a.keras")
    return pretrained.load_pretrained(str(folder / "a.keras"), SIZE)


def of_saved_model(folder):
    module = Module("float32", "features")
    tf.saved_model.save(module, str(folder / "m"), signatures=module.serve)
    return pretrained.load_pretrained(str(folder / "m"), SIZE)


every_kind = pytest.mark.parametrize("make", [lambda _: lite(), of_keras, of_saved_model])


@every_kind
def test_their_features_are_cached(rng, tmp_path, make, shallow):
    backbone = make(tmp_path)
    x = pixels(rng, 24, count=5)
    images = ImageSet("some", "train", x.astype(np.uint8), None, (), (0, 0, 0), (1, 1, 1))
    found = cache.cached(
        backbone.embed,
        images,
        tmp_path / "cache",
        key=pretrained.digest(backbone),
        batch_size=2,
    )
    assert_same(found, features(backbone, x))


@every_kind
def test_they_travel_into_a_saved_model(rng, tmp_path, make, shallow):
    """With the constants that their features are centred, turned and scaled by."""
    backbone = make(tmp_path)
    x = pixels(rng, count=8)
    fitted = Frozen(backbone, image_size=SIZE, dim=3)
    fitted.fit(features(backbone, x))
    reduced = fitted.copy("float32")
    assert reduced.feature_dim == 3
    module = tf.Module()
    module.weights = [getattr(v, "_value", v) for v in reduced.parts]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def serve(images):
        return reduced.embed(tf.cast(images, tf.float32) / 255)

    tf.saved_model.save(module, str(tmp_path / "exported"), signatures=serve)
    signature = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    (found,) = signature(tf.constant(x.astype(np.uint8))).values()
    np.testing.assert_allclose(found, fitted.project(features(backbone, x)), atol=1e-3)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-4)


# Digests


def test_the_digest_is_of_all_that_decides_about_features(shallow):
    def make(seed=0, **options):
        keras.utils.set_random_seed(seed)
        return EfficientNetLite("lite0", **({"image_size": 32} | options))

    digest = pretrained.digest(make())
    assert pretrained.digest(make()) == digest
    assert len(digest) == 64
    changed = [make(1), make(image_size=64), make(dtype="mixed_bfloat16")]
    changed.append(make())
    changed[-1].head.norm.moving_mean.assign_add([1e-7] * 1280)
    assert len({digest, *map(pretrained.digest, changed)}) == 5
