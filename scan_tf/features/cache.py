"""Features of a frozen network, computed once: a file that grows, resumes and is found again.

The file is named by the images' content and by the network, so that whatever changes either gets
another file, and runs on the same images share one. Its pieces have checksums: from the first one
that is damaged on it is computed anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tqdm import tqdm

from scan_tf.data.image_set import Images, ImageSet
from scan_tf.errors import DataError
from scan_tf.storage.files import reserve, write_text

Storage = Literal["float16", "float32"]

# Rows between two points to resume from: some seconds of work.
_CHUNK = 2048
# What stays in the caches of a core: 32 images at 128 pixels go faster than 128 of them.
BATCH_SIZE = 32
# Of a piece of the file: the row after its last one, and its SHA-256.
Piece = tuple[int, str]
_log = logging.getLogger(__name__)


def cached(
    network: Callable[[tf.Tensor], tf.Tensor],
    images: ImageSet,
    folder: Path,
    *,
    key: str,
    storage: Storage = "float32",
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> np.ndarray:
    """Features of all images by a frozen network, computed where `folder` does not hold them yet.

    An interrupted computation goes on from the last of its points; memory is bounded by a batch,
    whatever the number of images.

    Args:
        network: maps images f32 [B,S,S,3] in 0..1 to features f32 [B,D].
        images: N images.
        folder: holds one `.npy` for each pair of images and network, and its state beside it.
        key: the same for networks that give the same features, and for them alone.
        storage: dtype in the file; float16 halves it.
        batch_size: images at a time.
        progress: what to call the progress bar; None: no bar.

    Returns:
        `storage` [N,D], read-only, paged in from the file.

    Raises:
        DataError: a feature is NaN, or too large for `storage`.
        StageError: there is no room for the file.
    """
    facts = (key, storage, content_digest(images.images))
    path = folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.npy"
    count = len(images)
    pieces = _sound(path, count, storage)
    done = pieces[-1][0] if pieces else 0
    if done < count:
        batch = min(batch_size, count)
        forward = _compiled(network, [batch, *images.images.shape[1:]])
        rows = _open(path, done, (count, forward.outputs[0].shape[-1]), storage)
        hidden = True if progress is None else None  # None: where the output is no terminal
        with tqdm(None, progress, count, initial=done, disable=hidden, unit="image") as bar:
            for start in range(done, count, _CHUNK):
                end = min(start + _CHUNK, count)
                for first in range(start, end, batch):
                    last = min(first + batch, end)
                    # The last batch is filled up, so that one shape is compiled.
                    index = np.arange(first, first + batch).clip(max=count - 1)
                    (output,) = forward(tf.convert_to_tensor(images.images[index]))
                    found = output.numpy()
                    if np.abs(found).max() > np.finfo(storage).max or np.isnan(found).any():
                        raise DataError(
                            f"{images.name}: a feature of images {first} to {last - 1} is no "
                            f"{storage} number. Use float32, and check the network's weights."
                        )
                    rows[first:last] = found[: last - first]
                    bar.update(last - first)
                rows.flush()  # before the state says that they are there
                pieces.append((end, _digest(rows[start:end])))
                write_text(path.with_suffix(".json"), json.dumps({"pieces": pieces}) + "\n")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def content_digest(images: Images) -> str:
    """SHA-256 of the images' dtype, shape and content, read in pieces: 64 digits."""
    content = hashlib.sha256(f"{images.dtype}{images.shape}".encode())
    for start in range(0, len(images), 1024):
        content.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return content.hexdigest()


def _sound(path: Path, count: int, storage: Storage) -> list[Piece]:
    """The pieces of the file, from its beginning, that are as they were written."""
    sound: list[Piece] = []
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        pieces = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["pieces"]
        if found.ndim != 2 or len(found) != count or found.dtype != storage:
            return []
        for end, digest in pieces:
            start = sound[-1][0] if sound else 0
            if not start < end <= count or _digest(found[start:end]) != digest:
                raise ValueError(f"row {start} or one after it is not as it was written")
            sound.append((end, digest))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        _log.warning("%s: damaged (%s); computed anew from there.", path, error)
    return sound


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def _open(path: Path, done: int, shape: tuple[int, int], storage: Storage) -> np.memmap:
    """The file to write to, made anew where no row is done."""
    if done:
        return np.lib.format.open_memmap(path, mode="r+")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)  # of the file that is replaced
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=storage, shape=shape)
    reserve(path)
    return rows


def _compiled(network: Any, shape: list[int]) -> Any:
    """Pixels uint8 of one shape to [features f32 [B,D]], as a function with constant weights."""

    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return tf.cast(network(tf.cast(pixels, tf.float32) / 255.0), tf.float32)

    function = tf.function(forward, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, tf.uint8)
    )
    # What depends on the weights alone (folded kernels, casts) is computed once and not by batch:
    # a fifth of the time of a small network in bfloat16.
    return convert_variables_to_constants_v2(function)
