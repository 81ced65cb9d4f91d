"""Image files into clusters, by an exported classifier."""

from __future__ import annotations

import csv
import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scan_tf.data.images import (
    SUFFIXES,
    fitter,
    list_images,
    read_image,
)
from scan_tf.errors import ConfigError, DataError
from scan_tf.files import atomic
from scan_tf.pipeline.savedmodel import arrays, load

_SHOWN = 20
_log = logging.getLogger(__name__)


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
    model, size = load(Path(run_dir))
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
                out = arrays(model(images=np.stack(list(good.values()))))
                confidence = (f"{p:.6f}" for p in out["probabilities"].max(axis=1))
                rows.writerows(zip(good, out["cluster"], confidence, strict=True))
            bar.update(len(good) + len(bad))
        if skipped:
            _report(len(files), list(skipped.values()))
    return list(skipped)


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
