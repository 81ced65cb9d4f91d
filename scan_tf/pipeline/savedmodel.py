"""The trained classifier as a TensorFlow SavedModel.

The SavedModel holds everything from pixels to clusters: `tf.saved_model.load` is all that a program
needs to use it, and not this package. The signature `serving_default` maps `images` uint8
[B,H,W,3], of any H and W and also none, to `cluster` int64 [B], its `name` string [B],
`probabilities` f32 [B,C] and `features` f32 [B,D]. Where the run was evaluated there are also the
`distance` f32 [B] from the images that were learned from and `abstain` bool [B], none of the kinds.
Inside are the resize that folders of images get, the normalisation and the networks, in float32
whatever the dtype of the training. `model.json` beside it has sizes, constants and names.

The signature `native` takes images of the network's own size S, uint8 [B,S,S,3], and leaves out the
resize and the names: other formats have neither.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from scan_tf import __version__
from scan_tf.data.images import resize_and_crop
from scan_tf.errors import StageError
from scan_tf.features.outliers import NEIGHBORS
from scan_tf.models.backbone import Backbone
from scan_tf.models.heads import ClusterHeads
from scan_tf.pipeline.doubt import Doubt
from scan_tf.storage import files

# Clusters whose probabilities differ by less are tied: GPUs multiply in TF32 by default.
_TIE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A classifier that was read.

    Attributes:
        model: what TensorFlow read; its variables and tables live as long as it.
        image_size: S.
        below: the confidence below which it is unsure; None: it never is.
        far: the distance above which an image is unlike all that it knows; None: it cannot tell.
    """

    model: Any
    image_size: int
    below: float | None
    far: float | None

    def __call__(self, images: Any) -> dict[str, np.ndarray]:
        """The outputs, as NumPy has them, for images uint8 [B,H,W,3]."""
        return arrays(self.model.signatures["serving_default"](images=tf.constant(images)))


def save(
    directory: Path,
    backbone: Backbone,
    heads: ClusterHeads,
    *,
    names: Sequence[str] = (),
    doubt: Doubt | None = None,
    card: str = "",
) -> None:
    """Write the SavedModel, in place of an older one.

    Args:
        directory: what becomes the SavedModel; an older one stays until the new one is complete.
        backbone: the trained network, of any dtype policy.
        heads: one cluster head, H = 1 (`ClusterHeads.keep` picks one of many).
        names: of the C clusters, "" for one without; empty: none has one.
        doubt: when to abstain; None: there are no outputs that tell.
        card: text of `MODEL_CARD.md`; "": there is none.

    Raises:
        StageError: there are several heads, or `directory` holds something else.
    """
    if heads.num_heads != 1:
        raise StageError(f"export: expected 1 head, got {heads.num_heads}; pick one by heads.keep.")
    network = backbone.copy("float32")
    names = list(names) or [""] * heads.num_clusters
    check_place(directory)
    facts = {"scan_tf": __version__, "image_size": network.image_size}
    facts |= {"num_clusters": heads.num_clusters, "feature_dim": network.feature_dim}
    facts |= {"mean": list(network.mean), "std": list(network.std)}
    told = None if doubt is None else {k: getattr(doubt, k) for k in ("below", "how", "far")}
    facts |= {"names": names, "abstain": told}
    module, signatures = _module(network, heads, names, doubt)
    with files.replacing(directory) as fresh:
        tf.saved_model.save(module, str(fresh), signatures=signatures)
        (fresh / "model.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if card:
            (fresh / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def check_place(directory: Path) -> None:
    """Raise StageError where a SavedModel would replace something else."""
    replaceable = not directory.exists() or (directory / "saved_model.pb").is_file()
    if not replaceable and (directory.is_file() or any(directory.iterdir())):
        raise StageError(
            f"{directory}: holds something that is no SavedModel, which is not replaced. "
            "Remove it, or export to another folder."
        )


def _module(
    network: Backbone, heads: ClusterHeads, names: Sequence[str], doubt: Doubt | None
) -> tuple[tf.Module, dict[str, Any]]:
    """What is saved, and its signatures."""
    module = tf.Module(name="scan")
    # The bare variables: Keras layers would bring functions of their own into the SavedModel.
    used = [*network.parts, *heads.variables]
    module.weights = [v.value if isinstance(v, keras.Variable) else v for v in used]
    if doubt is not None:
        module.bank = tf.Variable(doubt.bank, trainable=False, name="bank")
    size = network.image_size

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        out = _classify(images, network, heads)
        if doubt is not None:
            out["distance"] = _distance(out["features"], module.bank)
            unsure = tf.reduce_max(out["probabilities"], axis=-1) < doubt.below
            out["abstain"] = unsure | (out["distance"] > doubt.far)
        return out

    def empty() -> dict[str, tf.Tensor]:
        out = classify(tf.zeros([1, size, size, 3], tf.uint8))
        return {name: tensor[:0] for name, tensor in out.items()}

    own = tf.TensorSpec([None, size, size, 3], tf.uint8, name="images")
    pixels = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")

    @tf.function(input_signature=[own], autograph=False)
    def native(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return classify(images)

    @tf.function(input_signature=[pixels], autograph=False)
    def serving(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # Neither the resize nor every convolution takes a batch of none.
        some = tf.shape(images)[0] > 0
        out = tf.cond(some, lambda: classify(resize_and_crop(images, size)), empty)
        return {**out, "name": tf.gather(tf.constant(names, tf.string), out["cluster"])}

    return module, {"serving_default": serving, "native": native}


def _distance(features: tf.Tensor, bank: tf.Tensor) -> tf.Tensor:
    """`outliers.distances` in graph code, float32 [B]."""
    cosine = tf.matmul(tf.math.l2_normalize(features, axis=-1), bank, transpose_b=True)
    nearest = tf.math.top_k(cosine, min(NEIGHBORS, bank.shape[0])).values
    return 1 - tf.reduce_mean(nearest, axis=-1)


def check(
    directory: Path,
    backbone: Backbone,
    heads: ClusterHeads,
    images: np.ndarray,
) -> dict[str, float]:
    """Reload a SavedModel and compare it with the networks in memory, in float32.

    Args:
        directory: the SavedModel.
        backbone: the network that was exported.
        heads: its single head.
        images: uint8 [B,S,S,3], at least one, S the network's; they form one batch.

    Returns:
        `images`, their number; `max_difference` of a probability; `agreement`, the share of images
        that get the same cluster.

    Raises:
        StageError: the SavedModel is missing or damaged, or it puts an image into another cluster,
            though the two most probable ones are not tied.
    """
    model = load(directory)
    pixels = tf.convert_to_tensor(images)
    ours = arrays(_classify(pixels, backbone.copy("float32"), heads))
    theirs = model(pixels)
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


def _classify(images: tf.Tensor, backbone: Backbone, heads: ClusterHeads) -> dict[str, tf.Tensor]:
    """Images uint8 [B,S,S,3] to the outputs of the SavedModel. Graph code."""
    features = backbone.embed(tf.cast(images, tf.float32) / 255.0)
    probs = tf.nn.softmax(heads(features)[0])
    return {"cluster": tf.argmax(probs, axis=-1), "probabilities": probs, "features": features}


def load(path: Path) -> Exported:
    """The classifier in a SavedModel or a run directory. Raises StageError."""
    found = [d for d in (path, path / "export") if (d / "saved_model.pb").is_file()]
    if not found:
        raise StageError(
            f"{path}: holds no exported model. Make it with: scan-tf export --run-dir {path}"
        )
    try:
        facts = json.loads((found[0] / "model.json").read_text(encoding="utf-8"))
        model = tf.saved_model.load(str(found[0]))
        abstain = facts.get("abstain") or {"below": None, "far": None}
        if "serving_default" not in model.signatures:
            raise KeyError("serving_default")
        return Exported(model, int(facts["image_size"]), abstain["below"], abstain["far"])
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise StageError(
            f"{found[0]}: damaged or not exported by scan_tf ({error}). "
            "Remove the folder and export again."
        ) from error


def arrays(outputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """The outputs of the function as NumPy has them."""
    return {name: tensor.numpy() for name, tensor in outputs.items()}
