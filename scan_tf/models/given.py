"""Features that the user computed elsewhere, as a backbone without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from scan_tf.errors import ConfigError, DataError, MissingDataError, StageError
from scan_tf.models.backbone import Backbone, Provenance

# Names of columns or arrays, in the order in which they are looked for.
_KEYS = ("path", "paths", "filepath", "id", "ids")
_ROWS = ("embedding", "embeddings", "features", "feature")


class Given(Backbone):
    """Rows of a file, looked up by the images' paths, ids or order; there is no network to call.

    Args:
        path: `.npy`: float [N,D], in the order of the images; `.npz`: `features` [N,D] and, unless
            in that order, `paths` (text) or `ids` (integers, positions among the images);
            `.parquet`: a column `path` or `id` and a column `embedding` of lists (needs pyarrow).
        image_size: side of the images that the rows belong to.

    Raises:
        ConfigError: pyarrow is missing.
        DataError: the file cannot be read, or holds something else.
    """

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    dtype_policy = "float32"
    variables: tuple[Any, ...] = ()
    trainable_variables: tuple[Any, ...] = ()
    non_trainable_variables: tuple[Any, ...] = ()

    def __init__(self, path: Path, *, image_size: int):
        self.path, self.image_size = path, image_size
        keys, self._rows = _read(path)
        if self._rows.ndim != 2 or self._rows.dtype.kind != "f" or not self._rows.size:
            raise DataError(
                f"{path}: expected features float [N,D], got {self._rows.dtype} "
                f"{list(self._rows.shape)}."
            )
        if not np.isfinite(self._rows).all():
            row = int(np.flatnonzero(~np.isfinite(self._rows).all(axis=1))[0])
            raise DataError(f"{path}: row {row} has a feature that is NaN or infinite.")
        self._where: dict[Any, int] | None = None
        if keys is not None:
            if len(keys) != len(self._rows):
                raise DataError(f"{path}: {len(keys)} paths or ids for {len(self._rows)} rows.")
            self._where = {key: row for row, key in enumerate(keys)}
            if len(self._where) < len(keys):
                raise DataError(f"{path}: a path or id is there twice.")
        self.feature_dim = int(self._rows.shape[1])
        self.provenance = Provenance(path.name, "features computed elsewhere", "not known", None)

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Refused: these features have no network. Raises StageError."""
        raise StageError(
            f"pretext.weights: {self.path} holds features, no network that could compute those of "
            "other images or views. Give the network itself for that: lite0, keras:NAME, "
            "hub:PRESET or a file of weights."
        )

    def copy(self, dtype: str) -> Given:
        """The same."""
        return self

    def of(self, paths: Sequence[str] | None, count: int, root: str | None) -> np.ndarray:
        """Features float [N,D] of images.

        Args:
            paths: of the images; None: they came from no files.
            count: N.
            root: a folder; paths in the file may be relative to it.

        Raises:
            DataError: an image has no row, or their numbers differ where the order counts.
        """
        if self._where is None:
            if count != len(self._rows):
                raise DataError(
                    f"{self.path}: {len(self._rows)} rows for {count} images, and no paths that "
                    "would say which is which. Give an .npz with features and paths."
                )
            return self._rows
        by_id = all(isinstance(key, int) for key in self._where)
        if by_id or paths is None:
            found = [self._where.get(number) for number in range(count)]
            names: Sequence[Any] = range(count)
        else:
            found, names = [self._row_of(path, root) for path in paths], paths
        missing = [name for name, row in zip(names, found, strict=True) if row is None]
        if missing:
            raise DataError(
                f"{self.path}: {len(missing)} of {count} images have no row, such as {missing[0]}. "
                "Paths are those of the files, in full or relative to data.path."
            )
        return self._rows[np.array(found, np.int64)]

    def _row_of(self, path: str, root: str | None) -> int | None:
        assert self._where is not None  # noqa: S101 - asked by `of` alone
        forms = [path, os.path.abspath(path)]
        forms += [] if root is None else [Path(os.path.relpath(path, root)).as_posix()]
        return next((self._where[form] for form in forms if form in self._where), None)


def _read(path: Path) -> tuple[list[Any] | None, np.ndarray]:
    """Keys, or None where the order counts, and rows. Raises as `Given` does."""
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file (pretext.weights).")
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        # NumPy leaves a file open that it opened itself and cannot read.
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return None, loaded
            arrays = {name: loaded[name] for name in loaded.files}
    except Exception as error:  # damage shows in a dozen kinds
        raise DataError(f"{path}: cannot be read ({error}).") from error
    rows = next((arrays[name] for name in _ROWS if name in arrays), None)
    if rows is None:
        raise DataError(f"{path}: expected an array 'features', got {', '.join(arrays) or 'none'}.")
    keys = next((arrays[name] for name in _KEYS if name in arrays), None)
    return (None if keys is None else keys.tolist()), rows


def _parquet(path: Path) -> tuple[list[Any], np.ndarray]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"pretext.weights: {path} needs pyarrow. Run: pip install 'scan-tf[parquet]'"
        ) from error
    try:
        table = parquet.read_table(path)
        keys, lists = (
            table.column(
                next((name for name in names if name in table.column_names), "")
            ).to_pylist()
            for names in (_KEYS, _ROWS)
        )
        return keys, np.array(lists, np.float32)
    except Exception as error:  # damage, a missing column or lists of several lengths
        raise DataError(
            f"{path}: expected a column 'path' or 'id' and a column 'embedding' of lists of one "
            f"length ({error})."
        ) from error
