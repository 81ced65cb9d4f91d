"""The trained classifier as a TensorFlow SavedModel.

The SavedModel holds everything from pixels to clusters: `tf.saved_model.load` is all that a program
needs to use it, and not this package. The signature `serving_default` maps `images` uint8
[B,H,W,3], of any H and W, to `cluster` int64 [B], `probabilities` f32 [B,C] and `features` f32
[B,D]. Inside are the resize that folders of images get, the normalisation and the networks, in
float32 whatever the dtype of the training. `model.json` beside it names sizes and constants.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from scan_tf import __version__, files
from scan_tf.data.images import (
    normalise,
    resize_and_crop,
)
from scan_tf.errors import StageError
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.resnet import ResNet

# Clusters whose probabilities differ by less are tied: GPUs multiply in TF32 by default.
_TIE = 1e-3


def save(
    directory: Path,
    backbone: ResNet,
    heads: ClusterHeads,
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Write the SavedModel, in place of an older one.

    Args:
        directory: what becomes the SavedModel; an older one stays until the new one is complete.
        backbone: the trained network, of any dtype policy.
        heads: one cluster head, H = 1 (`ClusterHeads.keep` picks one of many).
        image_size: side S to which images are resized, as in training.
        mean: of the three channels of images in 0..1, as in training.
        std: of the three channels.

    Raises:
        StageError: there are several heads, or `directory` holds something else.
    """
    if heads.num_heads != 1:
        raise StageError(f"export: expected 1 head, got {heads.num_heads}; pick one by heads.keep.")
    network = _float32_copy(backbone, image_size)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return _classify(resize_and_crop(images, image_size), network, heads, mean, std)

    module = tf.Module(name="scan")
    # The bare variables: Keras layers would bring functions of their own into the SavedModel.
    module.weights = [v.value for v in (*network.variables, *heads.variables)]
    facts = {"scan_tf": __version__, "image_size": image_size, "num_clusters": heads.num_clusters}
    facts |= {"feature_dim": network.feature_dim, "mean": list(mean), "std": list(std)}
    replaceable = not directory.exists() or (directory / "saved_model.pb").is_file()
    if not replaceable and (directory.is_file() or any(directory.iterdir())):
        raise StageError(
            f"{directory}: holds something that is no SavedModel, which is not replaced. "
            "Remove it, or export to another folder."
        )
    with files.replacing(directory) as fresh:
        tf.saved_model.save(module, str(fresh), signatures={"serving_default": classify})
        (fresh / "model.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def check(
    directory: Path,
    backbone: ResNet,
    heads: ClusterHeads,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, float]:
    """Reload a SavedModel and compare it with the networks in memory, in float32.

    Args:
        directory: the SavedModel.
        backbone: the network that was exported.
        heads: its single head.
        images: uint8 [B,S,S,3], at least one, S as in `save`; they form one batch.
        mean: of the three channels, as given to `save`.
        std: of the three channels.

    Returns:
        `images`, their number; `max_difference` of a probability; `agreement`, the share of images
        that get the same cluster.

    Raises:
        StageError: the SavedModel is missing or damaged, or it puts an image into another cluster,
            though the two most probable ones are not tied.
    """
    model, _ = load(directory)
    pixels = tf.convert_to_tensor(images)
    network = _float32_copy(backbone, images.shape[1])
    ours = arrays(_classify(pixels, network, heads, mean, std))
    theirs = arrays(model(images=pixels))
    difference = float(np.abs(ours["probabilities"] - theirs["probabilities"]).max())
    equal = ours["cluster"] == theirs["cluster"]
    best = np.sort(ours["probabilities"], axis=1)
    wrong = int((~equal & (best[:, -1] - best[:, -2] > _TIE)).sum())
    if wrong or np.isnan(difference):
        raise StageError(
            f"{directory}: the SavedModel puts {wrong} of {len(images)} images into another "
            f"cluster than the trained network (probabilities differ by up to {difference:.2g}). "
            "Was it exported from other weights? Remove the folder and export again."
        )
    agreement = float(equal.mean())
    return {"images": len(images), "max_difference": difference, "agreement": agreement}


def _classify(
    images: tf.Tensor,
    backbone: ResNet,
    heads: ClusterHeads,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, tf.Tensor]:
    """Images uint8 [B,S,S,3] to the outputs of the SavedModel. Graph code."""
    normalised = normalise(tf.cast(images, tf.float32) / 255.0, mean, std)
    features = backbone(normalised, training=False)
    probs = tf.nn.softmax(heads(features)[0])
    return {"cluster": tf.argmax(probs, axis=-1), "probabilities": probs, "features": features}


def _float32_copy(backbone: ResNet, image_size: int) -> ResNet:
    """The same network with the same weights, computing in float32."""
    stages = [block.name.split(".")[0] for block in backbone.blocks]
    one, two, three, four = (stages.count(f"layer{i}") for i in (1, 2, 3, 4))
    copy = ResNet(
        (one, two, three, four),
        bottleneck=len(backbone.blocks[0].convs) == 3,
        stem=backbone.stem,
        width=backbone.conv1.filters,
        dtype="float32",
    )
    copy(tf.zeros([1, image_size, image_size, 3]))
    for new, old in zip(copy.variables, backbone.variables, strict=True):
        new.assign(old)
    return copy


def load(path: Path) -> tuple[Callable[..., dict[str, tf.Tensor]], int]:
    """The function and the image size of a SavedModel or a run directory. Raises StageError."""
    found = [d for d in (path, path / "export") if (d / "saved_model.pb").is_file()]
    if not found:
        raise StageError(
            f"{path}: holds no exported model. Make it with: scan-tf export --run-dir {path}"
        )
    try:
        facts = json.loads((found[0] / "model.json").read_text(encoding="utf-8"))
        model = tf.saved_model.load(str(found[0]))
        return model.signatures["serving_default"], int(facts["image_size"])
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise StageError(
            f"{found[0]}: damaged or not exported by scan_tf ({error}). "
            "Remove the folder and export again."
        ) from error


def arrays(outputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """The outputs of the function as NumPy has them."""
    return {name: tensor.numpy() for name, tensor in outputs.items()}
