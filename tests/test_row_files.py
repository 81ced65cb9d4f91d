from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from scan_tf.errors import ConfigError, DataError
from scan_tf.handover import row_files

COLUMNS = {"path": str, "cluster": int, "confidence": float, "embedding": row_files.VECTOR}
ODD = 'ä, "b"\n\udcff.png'


def batches():
    for start in (0, 2):
        yield {
            "path": [f"{start}.png", ODD],
            "cluster": np.array([start, start + 1]),
            "confidence": np.array([0.5, 0.1234567], np.float32),
            "embedding": np.arange(6, dtype=np.float32).reshape(2, 3) + start,
        }


def write(path):
    with row_files.writing(path, COLUMNS) as rows:
        for batch in batches():
            rows(batch)


def test_csv(tmp_path):
    write(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["0.png", ODD, "2.png", ODD]
    assert rows[3] == {
        "path": ODD,
        "cluster": "3",
        "confidence": "0.123457",
        "embedding": "[5.0, 6.0, 7.0]",
    }


@pytest.mark.parametrize("suffix", ["jsonl", "NDJSON"])
def test_json_lines(tmp_path, suffix):
    write(tmp_path / f"a.{suffix}")
    text = (tmp_path / f"a.{suffix}").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["path"] for row in rows] == ["0.png", ODD, "2.png", ODD]
    assert "ä" in text
    assert rows[0] == {"path": "0.png", "cluster": 0, "confidence": 0.5, "embedding": [0, 1, 2]}


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert [str(field.type) for field in table.schema] == [
        "string",
        "int64",
        "float",
        "list<element: float>",
    ]
    assert table.num_rows == 4
    assert table["embedding"][3].as_py() == [5.0, 6.0, 7.0]
    assert table["path"][1].as_py() == 'ä, "b"\n\\udcff.png'


def test_npz(tmp_path):
    write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["embedding"].shape == (4, 3)
        assert file["path"].tolist() == ["0.png", ODD, "2.png", ODD]


def fail(path):
    with row_files.writing(path, COLUMNS) as rows:
        rows(next(batches()))
        raise RuntimeError


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".npz"])
def test_nothing_is_left_of_a_failure(tmp_path, suffix):
    with pytest.raises(RuntimeError):
        fail(tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"ends in one of \.csv, .*\.npz, got '\.xlsx'"):
        row_files.check(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="is a folder"):
        row_files.check(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'scan-tf\[parquet\]'"):
        row_files.check(tmp_path / "a.parquet")


def test_a_link_is_followed_and_a_pipe_is_written_into(tmp_path):
    (tmp_path / "real.csv").touch()
    (tmp_path / "link.csv").symlink_to("real.csv")
    write(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_bytes().startswith(b"path,cluster")

    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        write(tmp_path / "pipe")
        assert reader.communicate(timeout=30)[0] == (tmp_path / "real.csv").read_bytes()
    assert (tmp_path / "pipe").is_fifo()
