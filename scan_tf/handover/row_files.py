"""Rows to a file, batch after batch: CSV, JSON lines, Parquet or NPZ, as its suffix says."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import ConfigError, DataError
from scan_tf.storage.files import written

# What a column holds.
Columns = Mapping[str, type | str]
Batch = Mapping[str, Any]
Write = Callable[[Batch], None]

VECTOR = "vector"
_DECIMALS = 6


def check(path: Path) -> str:
    """The kind of file that the suffix means; a name without one is CSV.

    Raises:
        ConfigError: another suffix, or what writes Parquet is not installed.
        DataError: it is a folder.
    """
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        known = ", ".join(filter(None, _WRITERS))
        raise ConfigError(f"{path}: expected a file that ends in one of {known}, got '{suffix}'.")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the file to write.")
    if suffix == ".parquet":
        _pyarrow(path)
    return suffix


@contextlib.contextmanager
def writing(path: Path, columns: Columns) -> Iterator[Write]:
    """Give a function that writes a batch of rows; the file appears when the block succeeds.

    A link is followed; a pipe or a device is written into. Texts that are not valid UTF-8, such as
    odd names of files, keep their bytes in CSV, and have them as escapes elsewhere.

    Args:
        path: ends in .csv (or has no suffix), .jsonl, .ndjson, .parquet or .npz; the last alone
            holds all rows in memory.
        columns: name -> str, int, float, or VECTOR of floats. A batch holds for each of them as
            many values; those of a VECTOR are float [n,D].

    Raises:
        ConfigError, DataError: as `check`.
    """
    kind = check(path)
    with written(path) as place, _WRITERS[kind](place, columns) as write:
        yield write


def _plain(values: Any) -> list[Any]:
    """As Python's own types; numbers to six decimals."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return list(np.round(values.astype(np.float64), _DECIMALS).tolist())
    return list(values.tolist() if isinstance(values, np.ndarray) else values)


@contextlib.contextmanager
def _csv(place: Path, columns: Columns) -> Iterator[Write]:
    def texts(name: str, values: Any) -> list[Any]:
        plain = _plain(values)
        if columns[name] is float:
            return [f"{value:.{_DECIMALS}f}" for value in plain]
        return [json.dumps(value) for value in plain] if columns[name] == VECTOR else plain

    # Names of files need not be valid UTF-8: their bytes go out as they came in.
    with open(place, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        yield lambda batch: rows.writerows(
            zip(*(texts(name, batch[name]) for name in columns), strict=True)
        )


@contextlib.contextmanager
def _json_lines(place: Path, columns: Columns) -> Iterator[Write]:
    with open(place, "w", encoding="utf-8", errors="backslashreplace") as file:

        def write(batch: Batch) -> None:
            for row in zip(*(_plain(batch[name]) for name in columns), strict=True):
                # A lone surrogate becomes \udcff, which is an escape of JSON too.
                text = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
                file.write(text + "\n")

        yield write


@contextlib.contextmanager
def _parquet(place: Path, columns: Columns) -> Iterator[Write]:
    pyarrow, parquet = _pyarrow(place)
    numbers = pyarrow.float32()
    kinds: dict[type | str, Any] = {str: pyarrow.string(), int: pyarrow.int64(), float: numbers}
    kinds[VECTOR] = pyarrow.list_(numbers)
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])

    def array(name: str, values: Any) -> Any:
        if columns[name] == VECTOR:
            flat = np.ascontiguousarray(values, np.float32)
            offsets = np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1]
            return pyarrow.ListArray.from_arrays(offsets, flat.reshape(-1))
        if columns[name] is str:
            values = [v.encode("utf-8", "backslashreplace").decode() for v in values]
        return pyarrow.array(values, kinds[columns[name]])

    with parquet.ParquetWriter(str(place), schema) as file:
        yield lambda batch: file.write_table(
            pyarrow.table([array(name, batch[name]) for name in columns], schema=schema)
        )


@contextlib.contextmanager
def _npz(place: Path, columns: Columns) -> Iterator[Write]:
    batches: list[Batch] = []
    yield batches.append
    arrays: dict[str, Any] = {
        name: np.concatenate([np.asarray(batch[name]) for batch in batches]) for name in columns
    }
    with open(place, "wb") as file:
        np.savez(file, **arrays)


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: Parquet needs pyarrow: pip install 'scan-tf[parquet]'. "
            "Or name a .csv or .jsonl file."
        ) from error
    return pyarrow, parquet


_WRITERS: Mapping[str, Callable[[Path, Columns], contextlib.AbstractContextManager[Write]]] = {
    "": _csv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".npz": _npz,
}
