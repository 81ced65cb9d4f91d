from __future__ import annotations

import dataclasses
import errno
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from scan_tf.config import DataConfig
from scan_tf.data import images as decoded
from scan_tf.data import load as load_set
from scan_tf.data import stored
from scan_tf.errors import DataError, StageError
from scan_tf.storage import files

SIZE = 6


@pytest.fixture
def pixels(rng) -> np.ndarray:
    return rng.integers(0, 256, (11, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def load(tmp_path, pixels):
    """Loads the pixels but the last, through the cache; counts how often they are made."""
    made = []

    def fill(sink):
        made.append(None)
        sink.append(pixels[:4])
        sink.append(pixels[4:10])
        return {"labels": [1, 2]}

    def call(content="a", **settings):
        config = DataConfig(cache=str(tmp_path / "cache"), **({"streaming": "always"} | settings))
        return stored.load(config, len(pixels), SIZE, fill, content=lambda: {"of": content})

    return call, made


def entry(tmp_path):
    (folder,) = (tmp_path / "cache").iterdir()
    return folder


def test_rows_are_those_of_an_array(load, pixels, tmp_path):
    found, facts = load[0]()
    expected = pixels[:10]
    assert isinstance(found, stored.StoredImages)
    assert (found.shape, found.dtype, len(found)) == (expected.shape, np.uint8, 10)
    assert facts == {"labels": [1, 2]}
    mask = np.arange(10) % 3 == 0
    shuffled = np.array([7, 0, 7, 9, 3], np.int32)
    square = np.array([[1, 2], [-1, 0]])
    for rows in (
        *(3, -1, np.int64(9), slice(None), slice(2, 5), slice(5, 2), slice(None, None, 3)),
        *(slice(8, 99), slice(-3, None), slice(None, None, -1), mask, shuffled, square, [4, 4]),
        np.zeros(0, int),
    ):
        np.testing.assert_array_equal(found[rows], expected[rows], err_msg=str(rows))
    for rows in (10, -11, [3, 10], np.ones(9, bool)):
        with pytest.raises(IndexError):
            found[rows]
    # Anybody else reads the file too.
    np.testing.assert_array_equal(np.load(entry(tmp_path) / "images.npy"), expected)


def test_they_are_decoded_once_for_each_content(load, tmp_path):
    call, made = load
    for content in ("a", "a", "b", "a"):
        call(content)
    assert len(made) == 2
    assert len([*(tmp_path / "cache").iterdir()]) == 2


def test_a_second_program_waits_for_the_first(tmp_path, pixels, caplog):
    config = DataConfig(cache=str(tmp_path / "cache"), streaming="always")
    begun, asked, made = threading.Event(), threading.Event(), []

    def fill(sink):
        made.append(None)
        begun.set()
        if len(made) == 2:
            asked.set()  # by who has not waited
        asked.wait()
        sink.append(pixels)
        return {}

    def load():
        return stored.load(config, len(pixels), SIZE, fill, content=lambda: {})[0]

    class Told(logging.Handler):
        def emit(self, record):
            if "waiting until it has ended" in record.getMessage():
                asked.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load)
        begun.wait()
        logging.getLogger("scan_tf").addHandler(told := Told())
        second = pool.submit(load)
        try:
            np.testing.assert_array_equal(first.result()[:], second.result()[:])
        finally:
            logging.getLogger("scan_tf").removeHandler(told)
    assert len(made) == 1
    assert [path.name[0] != "." for path in (tmp_path / "cache").iterdir()] == [True]


def test_where_they_are_held(load, monkeypatch, tmp_path):
    call, _ = load
    for streaming in ("never", "auto"):
        assert isinstance(call(streaming=streaming)[0], np.ndarray)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(decoded, "MEMORY_LIMIT", 1000)
    assert isinstance(call(streaming="auto")[0], stored.StoredImages)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert stored.cache(DataConfig()) == tmp_path / "x" / "scan_tf" / "images"


@pytest.mark.parametrize("name", ["images.npy", "facts.json"])
@pytest.mark.parametrize("how", ["missing", "short", "empty", "other"])
def test_a_damaged_file_is_named_with_what_to_do(load, tmp_path, name, how):
    call, made = load
    call()
    path = entry(tmp_path) / name
    content = path.read_bytes()
    new = {"missing": None, "short": content[:-3], "empty": b"", "other": b"x" * len(content)}[how]
    path.unlink()
    if new is not None:
        path.write_bytes(new)
    with pytest.raises(DataError, match=f"{name}: damaged.*Delete {entry(tmp_path)}"):
        call()
    shutil.rmtree(entry(tmp_path))
    call()
    assert len(made) == 2


def test_too_little_room_leaves_nothing(load, tmp_path, monkeypatch):
    call, _ = load
    with monkeypatch.context() as patch:
        free = shutil.disk_usage(tmp_path)._replace(free=10)
        patch.setattr(files.shutil, "disk_usage", lambda _: free)
        with pytest.raises(StageError, match=f"{tmp_path / 'cache'}: 1 KiB are needed there"):
            call()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(stored.np.lib.format, "write_array_header_1_0", full)
        with pytest.raises(StageError, match="needed there .*No space left"):
            call()
    assert not [*(tmp_path / "cache").iterdir()]
    assert len(call()[0]) == 10


def test_a_folder_is_the_same_from_the_cache(tmp_path, rng, caplog):
    root = tmp_path / "photos"
    for kind in ("b", "a"):
        (root / kind).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
            image.save(root / kind / f"{i}.png")
    (root / "a" / "2.png").write_bytes(b"broken")
    config = DataConfig("folder", str(root), image_size=5, cache=str(tmp_path / "cache"))
    held, first, again = (
        load_set(dataclasses.replace(config, streaming=streaming), "train")
        for streaming in ("never", "always", "always")
    )
    assert caplog.text.count("are decoded into it once") == 1
    for found in (first, again):
        assert isinstance(found.images, stored.StoredImages)
        np.testing.assert_array_equal(found.images[:], held.images)
        np.testing.assert_array_equal(found.labels, held.labels)
        assert (found.paths, found.skipped) == (held.paths, held.skipped)
    # What a file holds tells, not what it is called.
    (root / "a" / "0.png").write_bytes((root / "b" / "0.png").read_bytes())
    changed = load_set(dataclasses.replace(config, streaming="always"), "train")
    np.testing.assert_array_equal(changed.images[0], held.images[3])
    assert len([*(tmp_path / "cache").iterdir()]) == 2
