"""Image files into clusters, by an exported classifier."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scan_tf.data.images import read_fitted, report_unreadable
from scan_tf.data.listing import SUFFIXES, listing
from scan_tf.errors import ConfigError, DataError
from scan_tf.evaluation import abstention
from scan_tf.handover import row_files
from scan_tf.pipeline.savedmodel import load

_COLUMNS: row_files.Columns = {
    "path": str,
    "cluster": int,
    "confidence": float,
    "name": str,
    "abstain": str,
}


def predict(
    run_dir: str | Path,
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    batch_size: int = 256,
    strict: bool = False,
    abstain: float | None = None,
    progress: bool = True,
) -> list[Path]:
    """Put image files into clusters and write a table with a row for each.

    The columns are path, cluster, name (of the cluster, "" where it has none), confidence (the
    probability of the cluster) and abstain: "unsure" or "unlike" where the image is none of the
    kinds, see `abstention.reasons`, else "". The rows are in the order of `paths`, folders searched
    with their sub-folders and sorted, every file once. Threads decode one batch ahead, so that only
    the list of the paths grows with their number.

    Args:
        run_dir: a run directory with an export, or a SavedModel that `save` wrote.
        paths: image files, folders of them, and patterns such as `photos/**/*.jpg`.
        output: the file: CSV, JSON lines or Parquet by its suffix, see `row_files.writing`; it
            appears when it is complete.
        batch_size: images at a time.
        strict: refuse the first file that cannot be read instead of skipping and listing it.
        abstain: the confidence below which an image is "unsure", 0..1; None: the model's own, where
            the run was evaluated before it was exported.
        progress: show a bar with the time left, where the output is a terminal.

    Returns:
        The files that were skipped because they cannot be read.

    Raises:
        ConfigError: `batch_size` is not positive, `abstain` is out of range, or the output has an
            unknown suffix.
        StageError: there is no export, or it is damaged.
        MissingDataError: a path does not exist.
        DataError: there is no image, none can be read or, with `strict`, one that cannot;
            or `output` is a folder.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: must be at least 1, got {batch_size}.")
    if abstain is not None and not 0 <= abstain <= 1:
        raise ConfigError(f"abstain: must be 0 to 1, got {abstain}.")
    row_files.check(Path(output))
    model = load(Path(run_dir))
    below = model.below if abstain is None else abstain
    found = [listing([path]) for path in paths]
    files = list(dict.fromkeys(file for part in found for file in part.files))
    for part in found:
        part.report(allowed=not strict)
    if not files:
        looked = ", ".join(map(str, paths)) or "no path given"
        raise DataError(f"{looked}: no images. Looked for {', '.join(sorted(SUFFIXES))}.")
    skipped: dict[Path, DataError] = {}
    with (
        row_files.writing(Path(output), _COLUMNS) as write,
        tqdm(None, "predicting", len(files), disable=None if progress else True) as bar,
    ):
        read = zip(files, read_fitted(files, model.image_size, ahead=batch_size), strict=True)
        while batch := list(itertools.islice(read, batch_size)):
            bad = {path: image for path, image in batch if isinstance(image, DataError)}
            if bad and strict:
                raise next(iter(bad.values()))
            skipped |= bad
            good = {path: image for path, image in batch if not isinstance(image, DataError)}
            if good:
                out = model(np.stack(list(good.values())))
                confidence = out["probabilities"].max(axis=1)
                why = abstention.reasons(
                    confidence, out.get("distance"), below=below, far=model.far
                )
                write(
                    {
                        "path": list(map(str, good)),
                        "cluster": out["cluster"],
                        # Models of earlier versions know no names.
                        "name": [n.decode() for n in out.get("name", [b""] * len(good))],
                        "confidence": confidence,
                        "abstain": why,
                    }
                )
            bar.update(len(batch))
        report_unreadable(list(skipped.values()), len(files))
    return list(skipped)
