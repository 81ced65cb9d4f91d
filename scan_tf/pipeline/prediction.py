"""Image files into clusters, by an exported classifier."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scan_tf.data.images import read_fitted, report_unreadable
from scan_tf.data.listing import SUFFIXES, list_images
from scan_tf.errors import ConfigError, DataError
from scan_tf.files import atomic
from scan_tf.pipeline.savedmodel import arrays, load


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
        read = zip(files, read_fitted(files, size, ahead=batch_size), strict=True)
        while batch := list(itertools.islice(read, batch_size)):
            bad = {path: image for path, image in batch if isinstance(image, DataError)}
            if bad and strict:
                raise next(iter(bad.values()))
            skipped |= bad
            good = {path: image for path, image in batch if not isinstance(image, DataError)}
            if good:
                out = arrays(model(images=np.stack(list(good.values()))))
                confidence = (f"{p:.6f}" for p in out["probabilities"].max(axis=1))
                rows.writerows(zip(good, out["cluster"], confidence, strict=True))
            bar.update(len(batch))
        report_unreadable(list(skipped.values()), len(files))
    return list(skipped)
