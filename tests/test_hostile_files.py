"""Every reader takes any bytes: what it makes of them is valid, or an error that users see."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from scan_tf.data.decoding import Budget, Limits, decode
from scan_tf.errors import ConfigError, DataError, ScanError, StageError
from scan_tf.explorer.journal import Journal
from scan_tf.handover import undo_file
from scan_tf.models.given import Given
from scan_tf.pipeline import names, record
from scan_tf.storage import files

# `make fuzz` sets it.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "wall_time_s", "config", "result", "files", "step"]), inner
        )
    ),
    max_leaves=8,
)


def image(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    text = io.BytesIO()
    mode = {"GIF": "P", "TIFF": "CMYK"}.get(kind, "RGB")
    Image.fromarray(pixels).convert(mode).save(text, kind)
    return text.getvalue()


KINDS = {kind: image(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, some cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(len(content) // 2, len(content)))])


@fuzz
@given(st.one_of(st.binary(max_size=200), *(damaged(whole) for whole in KINDS.values())))
def test_any_bytes_are_an_image_or_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with contextlib.suppress(DataError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about what it reads all the same
        found = decode(path, 4, limits=Limits(megapixels=1), budget=Budget(2**30))
        assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_that_are_damaged_were_good(tmp_path, kind):
    (tmp_path / "x").write_bytes(KINDS[kind])
    assert decode(tmp_path / "x", budget=Budget(2**30)).shape == (12, 9, 3)


@fuzz
@given(st.binary(max_size=60) | JSON.map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes_are_a_record_or_refused(tmp_path: Path, content: bytes):
    path = record.path_of(tmp_path, "scan")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with contextlib.suppress(StageError):
        found = record.read(tmp_path, "scan")
        assert isinstance(found.status, str)
        assert isinstance(found.wall_time_s, float)


@fuzz
@given(st.lists(st.binary(max_size=30) | JSON.map(lambda tree: json.dumps(tree).encode())))
def test_any_lines_are_rows_of_metrics_or_left_out(tmp_path: Path, lines: list[bytes]):
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert all(isinstance(row, dict) for row in files.read_metrics(tmp_path / "metrics.jsonl"))


@fuzz
@given(st.data())
def test_a_damaged_archive_is_refused_or_the_same(tmp_path: Path, data: st.DataObject):
    arrays = {"a": np.arange(50.0), "b": np.array(3)}
    files.write_npz(tmp_path / "a.npz", arrays, {"step": 1})
    whole, known = (tmp_path / "a.npz").read_bytes(), files.read_npz(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(data.draw(damaged(whole)))
    with contextlib.suppress(StageError):
        np.testing.assert_equal(files.read_npz(tmp_path / "a.npz"), known)


@fuzz
@given(st.data())
def test_any_bytes_are_features_or_refused(tmp_path: Path, data: st.DataObject):
    path = tmp_path / data.draw(st.sampled_from(["x.npy", "x.npz"]))
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        np.savez(path, features=rows, paths=np.array(["a", "b", "c", "d"]))
    whole = path.read_bytes()
    path.write_bytes(data.draw(st.binary(max_size=200) | damaged(whole)))
    with contextlib.suppress(ScanError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Given(path, image_size=8)
        assert found.of(None, 4, None).shape == (4, found.feature_dim)


LINES = st.binary(max_size=40) | JSON.map(lambda tree: json.dumps(tree).encode())


@fuzz
@given(st.lists(LINES, max_size=5), st.integers(0, 3))
def test_any_lines_are_an_undo_file_or_refused(tmp_path: Path, lines: list[bytes], number: int):
    path = tmp_path / undo_file.NAME
    undo_file.write(path, [])
    deep = [b"[" * 100_000] if not number else []
    path.write_bytes(path.read_bytes() + b"\n".join([*deep, *lines]))
    with contextlib.suppress(DataError):
        undo_file.read(path)


@fuzz
@given(st.lists(LINES, max_size=5))
def test_any_lines_are_a_journal_or_refused(tmp_path: Path, lines: list[bytes]):
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    Journal(path, {"sha256": "x"}).close()
    path.write_bytes(path.read_bytes() + b"\n".join(lines))
    with contextlib.suppress(StageError):
        Journal(path, {"sha256": "x"}).close()


@fuzz
@given(st.text(max_size=8), st.text(max_size=120), st.integers(1, 12))
def test_any_text_names_a_cluster_or_is_refused(number: str, name: str, count: int):
    with contextlib.suppress(ConfigError):
        found = names.parse([f"{number}={name}"], count)
        assert [*found] == [int(number)]
        assert all(0 <= cluster < count for cluster in found)
        assert all(text == text.strip() and text.isprintable() for text in found.values())
