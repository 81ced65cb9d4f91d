from __future__ import annotations

import numpy as np
import pytest

from scan_tf.config import DataConfig
from scan_tf.data import from_array, load, sources
from scan_tf.data.arrays import square
from scan_tf.errors import ConfigError, DataError, MissingDataError


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(5, 8, 8, 3), (5, 8, 8, 1), (5, 8, 8)])
def test_colour_and_grey_become_rgb(shape):
    images = pixels(*shape)
    found = from_array(images)
    assert (found.name, found.split, found.images.shape) == ("array", "train", (5, 8, 8, 3))
    grey = images.reshape(5, 8, 8, -1)
    np.testing.assert_array_equal(found.images, np.broadcast_to(grey, (5, 8, 8, 3)))
    scaled = found.images / 255
    np.testing.assert_allclose(found.mean, scaled.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found.std, scaled.std(axis=(0, 1, 2)), atol=1e-5)


def test_the_centre_square_is_kept():
    images = pixels(3, 6, 10, 3)
    np.testing.assert_array_equal(from_array(images).images, images[:, :, 2:8])
    assert from_array(images, image_size=4).images.shape == (3, 4, 4, 3)


def test_batches_change_nothing(monkeypatch):
    images = pixels(7, 6, 10, 3)
    whole = square(images, 5)
    monkeypatch.setattr("scan_tf.data.arrays._BATCH", 3)
    np.testing.assert_array_equal(square(images, 5), whole)


def test_images_of_one_colour_have_a_deviation_to_divide_by():
    assert from_array(np.zeros((4, 8, 8), np.uint8)).std == (1 / 255,) * 3


def test_labels_are_names_or_numbers():
    found = from_array(pixels(4, 8, 8), ["b", "a", "b", "c"])
    assert found.class_names == ("a", "b", "c")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 1, 2]
    assert from_array(pixels(3, 8, 8), [7, 3, 7]).class_names == ("3", "7")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((4, 8, 8)), r"must be uint8 in 0..255, got float64 in 1..1. Scale"),
        (np.ones((4, 8, 8), np.int64), "must be uint8 in 0..255, got int64"),
        (pixels(4, 64), r"must be \[N,H,W,3\], \[N,H,W,1\] or \[N,H,W\], got \[4, 64\]"),
        (pixels(4, 8, 8, 4), r"got \[4, 8, 8, 4\]"),
        (pixels(0, 8, 8), r"got \[0, 8, 8\]"),
        (["a", "b"], r"got \[2\]"),
    ],
)
def test_other_arrays_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        from_array(images)


def test_labels_of_another_length_are_refused():
    with pytest.raises(DataError, match=r"labels must be \[4\], one for each image, got \[3\]"):
        from_array(pixels(4, 8, 8), [0, 1, 0])


def test_a_file_is_a_data_set(tmp_path):
    images, path = pixels(6, 8, 8), tmp_path / "mine.npy"
    np.save(path, images)
    config = DataConfig("array", str(path))
    found = load(config, "train")
    assert found is not None
    assert (len(found), found.labels, load(config, "test")) == (6, None, None)
    np.save(tmp_path / "mine.labels.npy", np.arange(6) // 3)
    found = load(config, "train")
    assert found is not None
    assert found.class_names == ("0", "1")
    assert sources.pretext_is_train(config)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="data.path: data.name 'array' needs it"):
        load(DataConfig("array"), "train")
    with pytest.raises(MissingDataError, match="no such file"):
        load(DataConfig("array", str(tmp_path / "no.npy")), "train")
    bad = tmp_path / "bad.npy"
    np.save(bad, np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"bad.npy: expected an array that numpy.save wrote"):
        load(DataConfig("array", str(bad)), "train")
