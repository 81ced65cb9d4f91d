from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import DataError
from scan_tf.features import cache

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class Network:
    """The mean colour of each half: D = 6. Counts its calls, and stops after some."""

    def __init__(self, stop_after: int | None = None):
        self.images, self.stop_after = 0, stop_after

    def __call__(self, x):
        tf.py_function(self._count, [tf.shape(x)[0]], [])
        return tf.reshape(tf.reduce_mean(tf.reshape(x, [-1, 2, 8, 3]), 2), [-1, 6])

    def _count(self, count):
        if self.stop_after is not None and self.images >= self.stop_after:
            raise KeyboardInterrupt
        self.images += int(count)


def image_set(rng, count=37, name="some"):
    pixels = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return ImageSet(name, "train", pixels, None, (), MEAN, STD)


def expected(images):
    x = images.images / 255
    return x.reshape(-1, 2, 8, 3).mean(2).reshape(-1, 6)


def run(network, images, folder, **options):
    options = {"key": "k", "batch_size": 8} | options
    return cache.cached(network, images, folder, **options)


@pytest.fixture
def chunks(monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 16)


def test_features_are_computed_once(rng, tmp_path, chunks):
    images, network = image_set(rng), Network()
    first = run(network, images, tmp_path / "cache")
    np.testing.assert_allclose(first, expected(images), atol=1e-5)
    assert (first.dtype, first.shape) == (np.float32, (37, 6))
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    assert network.images == 5 * 8  # the last batch is filled up
    second = run(network, images, tmp_path / "cache")
    assert network.images == 40
    np.testing.assert_array_equal(second, first)


def test_a_bar_is_for_terminals_only(rng, tmp_path, capfd):
    run(Network(), image_set(rng, 5), tmp_path, progress="features")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("count", [1, 7, 8, 16, 17])
def test_numbers_of_images(rng, tmp_path, chunks, count):
    images = image_set(rng, count)
    np.testing.assert_allclose(run(Network(), images, tmp_path), expected(images), atol=1e-5)


def test_whatever_changes_the_features_gets_another_file(rng, tmp_path):
    images, other = image_set(rng), image_set(rng)
    first = run(Network(), images, tmp_path)
    changed = [
        run(Network(), other, tmp_path),
        run(Network(), images.subset(range(36, -1, -1)), tmp_path),
        run(lambda x: 2 * Network()(x), images, tmp_path, key="twice"),
    ]
    assert all((found != first).any() for found in changed)
    run(Network(), images, tmp_path, storage="float16")
    assert len(list(tmp_path.glob("*.npy"))) == 5
    same = ImageSet("a new name", "test", images.images.copy(), None, (), STD, MEAN)
    run(Network(), same, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 5


def test_an_interrupted_computation_goes_on(rng, tmp_path, chunks):
    images = image_set(rng)
    with pytest.raises((KeyboardInterrupt, tf.errors.OpError)):
        run(Network(stop_after=24), images, tmp_path)
    (state,) = tmp_path.glob("*.json")
    assert [end for end, _ in json.loads(state.read_text())["pieces"]] == [16]
    network = Network()
    np.testing.assert_allclose(run(network, images, tmp_path), expected(images), atol=1e-5)
    assert network.images == 24  # and not 40: two of five batches were there


def test_from_a_flipped_bit_on_it_is_computed_anew(rng, tmp_path, chunks, caplog):
    images = image_set(rng)
    first = run(Network(), images, tmp_path).copy()
    (path,) = tmp_path.glob("*.npy")
    content = bytearray(path.read_bytes())
    content[-20 * 6 * 4] ^= 1  # in row 17 of 37, whose piece begins with row 16
    path.write_bytes(content)
    network = Network()
    np.testing.assert_array_equal(run(network, images, tmp_path), first)
    assert network.images == 24
    assert f"{path}: damaged (row 16 or one after it" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "no state", "bad state", "too many rows", "other shape"])
def test_a_damaged_file_is_made_anew(rng, tmp_path, chunks, damage):
    images = image_set(rng)
    run(Network(), images, tmp_path)
    (path,), (state,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "no state":
        state.unlink()
    elif damage == "other shape":
        np.save(path, np.zeros((36, 6), np.float32))
    else:
        state.write_text("{" if damage == "bad state" else '{"pieces": [[38, ""]]}')
    network = Network()
    np.testing.assert_allclose(run(network, images, tmp_path), expected(images), atol=1e-5)
    assert network.images == 40


def test_float16_is_the_nearest(rng, tmp_path):
    images = image_set(rng)
    full, half = (run(Network(), images, tmp_path, storage=s) for s in ("float32", "float16"))
    np.testing.assert_array_equal(half, full.astype(np.float16))


@pytest.mark.parametrize(("factor", "storage"), [(1e6, "float16"), (np.nan, "float32")])
def test_features_that_are_no_numbers_are_refused(rng, tmp_path, factor, storage):
    with pytest.raises(DataError, match=f"a feature of images 0 to 7 is no {storage} number"):
        run(lambda x: factor * Network()(x), image_set(rng), tmp_path, storage=storage)


def test_the_digest_of_images_reads_all_of_them(rng):
    images = rng.integers(0, 256, (1500, 2, 2, 3), np.uint8)
    digest = cache.content_digest(images)
    assert digest == cache.content_digest(images.copy())
    for row in (0, 1023, 1024, 1499):
        changed = images.copy()
        changed[row, 1, 1, 2] ^= 1
        assert cache.content_digest(changed) != digest
    assert cache.content_digest(images.reshape(3000, 2, 1, 3)) != digest
