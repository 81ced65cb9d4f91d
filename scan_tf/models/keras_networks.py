"""Pretrained networks of Keras Applications and of KerasHub, `.keras` files and SavedModels."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from scan_tf.errors import ConfigError, DataError, MissingDataError
from scan_tf.models.backbone import Provenance
from scan_tf.models.wrapped import Wrapped
from scan_tf.settings.schema import did_you_mean

# What Keras's networks take where they normalise inside: pixels 0..255.
_PIXELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
_UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_UNKNOWN = "not known: the file does not say"
# KerasHub's families: how they were trained, whether by labels, and the licence of the weights.
_FAMILIES = {
    "dinov2": ("self-supervised (DINOv2) on LVD-142M", False, "Apache-2.0"),
    "dinov3": ("self-supervised (DINOv3) on LVD-1689M or SAT-493M", False, "DINOv3 License"),
    "metaclip": ("on pairs of pictures and texts (MetaCLIP)", None, "see kaggle.com/models"),
    "siglip": ("on pairs of pictures and texts (SigLIP)", None, "Apache-2.0"),
    "clip": ("on pairs of pictures and texts (CLIP)", None, "MIT"),
}


def application(name: str, image_size: int | None, dtype: str) -> Wrapped:
    """`keras:NAME`: a network of `keras.applications` with its ImageNet weights.

    Keras keeps the weights in its cache and downloads them where they are not there.

    Raises:
        ConfigError: there is no such network, or it cannot be used at that size.
        MissingDataError: the weights are not here and cannot be downloaded.
    """
    names = [n for n in dir(keras.applications) if n[0].isupper()]
    if name not in names:
        raise ConfigError(
            f"pretext.weights: 'keras:{name}' is unknown. {did_you_mean(name, names)}"
        )
    builder = getattr(keras.applications, name)
    preprocess = sys.modules[builder.__module__].preprocess_input
    size = image_size or 224

    def make(policy: str) -> tuple[Any, Any]:
        shape = (size, size, 3)
        with _downloading(f"keras:{name}"):
            model = builder(include_top=False, weights="imagenet", pooling="avg", input_shape=shape)
        _compute_in(policy, model)
        return lambda x: model(preprocess(x), training=False), model.variables

    return Wrapped(
        make,
        image_size=size,
        **_PIXELS,
        provenance=Provenance(
            name=f"{name} of Keras Applications",
            trained="supervised, on the labelled photos of ImageNet",
            licence="see https://keras.io/api/applications (differs between networks)",
            labels=True,
        ),
        dtype=dtype,
    )


def preset(name: str, image_size: int | None, dtype: str) -> Wrapped:
    """`hub:PRESET`: an image encoder of KerasHub, by the name of a preset, a folder or an URI.

    Raises:
        ConfigError: KerasHub is not installed, or the preset is unknown or has no images.
        MissingDataError: the weights are not here and cannot be downloaded.
    """
    try:
        hub = importlib.import_module("keras_hub")
    except ImportError as error:
        raise ConfigError(
            f"pretext.weights: 'hub:{name}' needs KerasHub. Run: pip install 'scan-tf[hub]'"
        ) from error
    with _downloading(f"hub:{name}"):
        converter = hub.layers.ImageConverter.from_preset(name)
    size = image_size or converter.image_size[0]
    shape = (size, size, 3)

    def make(policy: str) -> tuple[Any, Any]:
        with _downloading(f"hub:{name}"):
            model = hub.models.Backbone.from_preset(name)
            if tuple(getattr(model, "image_shape", shape)) != shape:
                # The table of positions is interpolated when the weights are read.
                model = hub.models.Backbone.from_preset(name, image_shape=shape)
        _compute_in(policy, model)
        if hasattr(model, "get_vision_embeddings"):  # CLIP and SigLIP, which know texts, too
            return model.get_vision_embeddings, _used(model, shape)
        if not isinstance(model.input, dict):
            return lambda x: model(x, training=False), model.variables
        if len(model.input) != 1:
            raise ConfigError(
                f"pretext.weights: 'hub:{name}' takes {list(model.input)}, no images."
            )
        (key,) = model.input
        return lambda x: model({key: x}, training=False), model.variables

    scale, offset = (_three(v, d) for v, d in ((converter.scale, 1.0), (converter.offset, 0.0)))
    family = next((f for f in _FAMILIES if f in Path(name).name.replace("-", "")), None)
    trained, labels, licence = _FAMILIES.get(
        family or "", (_UNKNOWN, None, "see kaggle.com/models")
    )
    # scale * pixel + offset = (pixel / 255 - mean) / std
    std = [1 / (255 * s) for s in scale]
    mean = [-o * s for o, s in zip(offset, std, strict=True)]
    return Wrapped(
        make,
        image_size=size,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        provenance=Provenance(f"{name} of KerasHub", trained, licence, labels),
        dtype=dtype,
    )


def keras_file(path: Path, image_size: int | None, dtype: str) -> Wrapped:
    """A `.keras` file of a network that takes pixels 0..255, as those of Keras do.

    Raises:
        ConfigError: the network does not take images of that size.
        DataError: the file is damaged, or has layers that run code of its own.
    """

    def read() -> keras.Model:
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        # Damage shows in a dozen kinds of exceptions; all mean the same to a user.
        except Exception as error:
            raise DataError(f"{path}: cannot be read as a file of Keras ({error}).") from error

    def make(policy: str) -> tuple[Any, Any]:
        model = read()
        _compute_in(policy, model)
        return lambda x: model(x, training=False), model.variables

    shape = getattr(read(), "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
        raise ConfigError(f"{path}: takes {shape}, expected images (None, S, S, 3).")
    return Wrapped(
        make,
        image_size=_size(path, shape[1], image_size),
        **_PIXELS,
        provenance=Provenance(path.name, _UNKNOWN, _UNKNOWN, None),
        dtype=dtype,
    )


def saved_model(path: Path, image_size: int | None, dtype: str) -> Wrapped:
    """A SavedModel: its signature takes pixels as uint8, or images in 0..1 as floats.

    Its features are the output called `features`, or the only one.

    Raises:
        ConfigError: it takes or returns something else, or is to compute in bfloat16.
        DataError: it is damaged.
    """
    try:
        module = tf.saved_model.load(str(path))
        signature = module.signatures["serving_default"]
    except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
        raise DataError(f"{path}: cannot be read as a SavedModel ({error}).") from error
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    shape = [spec.shape.as_list() for spec in inputs.values()] if len(inputs) == 1 else []
    key = "features" if "features" in outputs else next(iter(outputs))
    if len(shape) != 1 or len(shape[0]) != 4 or shape[0][3] not in (3, None):
        raise ConfigError(f"{path}: takes {inputs}, expected one batch of images [B,S,S,3].")
    if key != "features" and len(outputs) != 1:
        raise ConfigError(f"{path}: returns {sorted(outputs)}; expected 'features', or one output.")
    ((argument, spec),) = inputs.items()

    def network(x: tf.Tensor) -> tf.Tensor:
        if spec.dtype.is_integer:
            x = tf.round(tf.clip_by_value(x, 0.0, 255.0))
        return signature(**{argument: tf.cast(x, spec.dtype)})[key]

    network.module = module  # type: ignore[attr-defined]  # variables die with their module

    def make(policy: str) -> tuple[Any, Any]:
        if policy != "float32":
            raise ConfigError(f"{path}: a SavedModel computes as it was saved, not in {policy}.")
        return network, signature.variables

    return Wrapped(
        make,
        image_size=_size(path, shape[0][1], image_size),
        **(_PIXELS if spec.dtype.is_integer else _UNIT),
        provenance=Provenance(path.name, _UNKNOWN, _UNKNOWN, None),
        dtype=dtype,
    )


def _size(path: Path, fixed: int | None, asked: int | None) -> int:
    """The size that a network takes and the user asks for. Raises ConfigError."""
    if fixed is not None and asked not in (None, fixed):
        raise ConfigError(f"{path}: takes images of {fixed} pixels only, not of {asked}.")
    size = fixed or asked
    if size is None:
        raise ConfigError(f"{path}: takes images of any size; say of which (pretext.image_size).")
    return size


def _three(value: Any, default: float) -> list[float]:
    """One number for all channels, one for each, or none."""
    if value is None:
        return [default] * 3
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * 3


def _compute_in(policy: str, model: keras.Model) -> None:
    """Give every layer of a finished network another dtype policy; variables stay float32."""
    for layer in model._flatten_layers():
        layer.dtype_policy = policy


def _used(model: Any, shape: tuple[int, int, int]) -> list[Any]:
    """The variables by which a model of images and texts embeds images of a shape."""
    images = tf.TensorSpec([1, *shape], tf.float32)
    graph = tf.function(model.get_vision_embeddings).get_concrete_function(images).graph
    ids = {id(variable) for variable in graph.variables}
    return [v for v in model.variables if id(v.value) in ids]


@contextlib.contextmanager
def _downloading(weights: str) -> Iterator[None]:
    """Name the weights that cannot be had, and no others take their place."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ConfigError(f"pretext.weights: '{weights}' cannot be used ({error}).") from error
    # What goes wrong with a download is up to the system and to three libraries.
    except Exception as error:
        raise MissingDataError(
            f"pretext.weights: '{weights}' is not on this machine and cannot be downloaded "
            f"({error}). Weights that come with a Python package: lite0, lite1, lite2."
        ) from error
