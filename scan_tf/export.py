"""The trained classifier as a TensorFlow SavedModel, and its use on image files.

The SavedModel holds everything from pixels to clusters: `tf.saved_model.load` is all that a program
needs to use it, and not this package. The signature `serving_default` maps `images` uint8
[B,H,W,3], of any H and W, to `cluster` int64 [B], `probabilities` f32 [B,C] and `features` f32
[B,D]. Inside are the resize that folders of images get, the normalisation and the networks, in
float32 whatever the dtype of the training. `model.json` beside it names sizes and constants.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from scan_tf import __version__
from scan_tf.backbones import ResNet
from scan_tf.checkpoint import atomic
from scan_tf.data.images import SUFFIXES, fitter, list_images, read_image, resize_and_crop
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.heads import ClusterHeads
from scan_tf.loader import normalise

# Clusters whose probabilities differ by less are tied: GPUs multiply in TF32 by default.
_TIE = 1e-3
_SHOWN = 20
_log = logging.getLogger(__name__)


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
    with _replacing(directory.resolve()) as fresh:
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
    model, _ = _load(directory)
    pixels = tf.convert_to_tensor(images)
    network = _float32_copy(backbone, images.shape[1])
    ours = _arrays(_classify(pixels, network, heads, mean, std))
    theirs = _arrays(model(images=pixels))
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


def predict(
    run_dir: str | Path,
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    batch_size: int = 256,
    strict: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Put image files into clusters and write a CSV with the columns path, cluster, confidence.

    The rows are in the order of `paths`, folders searched with their sub-folders and sorted, every
    file once; the confidence is the probability of the cluster. Threads decode one batch ahead, so
    that only the list of the paths grows with their number.

    Args:
        run_dir: a run directory with an export, or a SavedModel that `save` wrote.
        paths: image files and folders of them.
        output: the CSV file, UTF-8; it appears when it is complete.
        batch_size: images at a time.
        strict: refuse the first file that cannot be read instead of skipping and listing it.
        progress: show a bar with the time left, where the output is a terminal.

    Returns:
        The files that were skipped because they cannot be read.

    Raises:
        ConfigError: `batch_size` is not positive.
        StageError: there is no export, or it is damaged.
        MissingDataError: a path does not exist.
        DataError: there is no image, none can be read or, with `strict`, one that cannot;
            or `output` is a folder.
    """
    model, size = _load(Path(run_dir))
    output = Path(output)
    if batch_size < 1:
        raise ConfigError(f"batch_size: must be at least 1, got {batch_size}.")
    if output.is_dir():
        raise DataError(f"{output}: is a folder; name the CSV file to write.")
    files = list(dict.fromkeys(file for path in paths for file in list_images([path])))
    if not files:
        looked = ", ".join(map(str, paths)) or "no path given"
        raise DataError(f"{looked}: no images. Looked for {', '.join(sorted(SUFFIXES))}.")
    skipped: dict[Path, DataError] = {}
    with (
        atomic(output) as temporary,
        # Names of files need not be valid UTF-8: their bytes go out as they came in.
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        tqdm(None, "predicting", len(files), disable=None if progress else True) as bar,
    ):
        rows = csv.writer(file)
        rows.writerow(["path", "cluster", "confidence"])
        for good, bad in _decoded(files, size, batch_size):
            if bad and strict:
                raise next(iter(bad.values()))
            skipped |= bad
            if good:
                out = _arrays(model(images=np.stack(list(good.values()))))
                confidence = (f"{p:.6f}" for p in out["probabilities"].max(axis=1))
                rows.writerows(zip(good, out["cluster"], confidence, strict=True))
            bar.update(len(good) + len(bad))
        if skipped:
            _report(len(files), list(skipped.values()))
    return list(skipped)


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


@contextlib.contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """Give a path beside `directory`; the folder made there takes its place on success."""
    replaceable = not directory.exists() or (directory / "saved_model.pb").is_file()
    if not replaceable and (directory.is_file() or any(directory.iterdir())):
        raise StageError(
            f"{directory}: holds something that is no SavedModel, which is not replaced. "
            "Remove it, or export to another folder."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    old = fresh.with_suffix(".old")
    try:
        yield fresh
        # No portable call swaps two folders; between these two lines there is none.
        if directory.exists():
            os.replace(directory, old)
        os.replace(fresh, directory)
    except BaseException:
        if old.exists() and not directory.exists():
            os.replace(old, directory)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _load(path: Path) -> tuple[Callable[..., dict[str, tf.Tensor]], int]:
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


def _arrays(outputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def _decoded(
    files: Sequence[Path], size: int, batch_size: int
) -> Iterator[tuple[dict[Path, np.ndarray], dict[Path, DataError]]]:
    """Batches of images uint8 [S,S,3] by file, in order, and of what is wrong with the others.

    Threads decode one batch while the caller works on the one before.
    """
    fit = fitter(size)

    def read(file: Path) -> np.ndarray | DataError:
        try:
            return fit(read_image(file))
        except DataError as error:
            return error

    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
    with ThreadPoolExecutor() as pool:
        ahead = pool.map(read, batches[0])
        for batch, following in itertools.zip_longest(batches, batches[1:], fillvalue=()):
            images = list(zip(batch, ahead, strict=True))
            ahead = pool.map(read, following)
            yield (
                {p: image for p, image in images if not isinstance(image, DataError)},
                {p: error for p, error in images if isinstance(error, DataError)},
            )


def _report(total: int, errors: Sequence[DataError]) -> None:
    """Warn of the files that cannot be read. Raises DataError when there is no other."""
    lines = [f"{len(errors)} of {total} images cannot be read:", *map(str, errors[:_SHOWN])]
    text = "\n  ".join(lines + [f"and {len(errors) - _SHOWN} more"] * (len(errors) > _SHOWN))
    if len(errors) == total:
        raise DataError(f"{text}\nThere is no image left.")
    _log.warning("%s\nThey are skipped.", text)
