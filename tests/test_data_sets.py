from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from scan_tf.config import DataConfig
from scan_tf.data import sources, tfds
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet
from scan_tf.data.sets import cifar10, cifar20, digits, stl10
from scan_tf.errors import ConfigError, DataError, MissingDataError


def make(**changes) -> ImageSet:
    fields = {
        "name": "toy",
        "split": "train",
        "images": np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3),
        "labels": np.array([0, 1, 2, 1, 0]),
        "class_names": ("a", "b", "c"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "paths": tuple("vwxyz"),
    }
    return ImageSet(**fields | changes)


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, scan_tf.data as d; d.available();"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_available_names_the_data_sets() -> None:
    assert sources.available() == [
        *("array", "cifar10", "cifar20", "digits", "folder", "imagenet", "stl10")
    ]


def test_size_and_classes() -> None:
    toy = make()
    assert (len(toy), toy.image_size, toy.num_classes) == (5, 2, 3)
    assert make(labels=None, class_names=()).num_classes is None


@pytest.mark.parametrize("indices", [[3, 0], np.array([0, 0, 0, 1, 0], bool)])
def test_subset_takes_indices_or_a_mask(indices) -> None:
    toy, chosen = make(), np.arange(5)[indices]
    part = toy.subset(indices)
    np.testing.assert_array_equal(part.images, toy.images[chosen])
    np.testing.assert_array_equal(part.labels, toy.labels[chosen])
    assert part.paths == tuple("vwxyz"[i] for i in chosen)
    assert make(labels=None, paths=None).subset(indices).labels is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 2, 2, 3), np.float32)}, "uint8.*float32"),
        ({"images": np.zeros((5, 2, 3, 3), np.uint8)}, r"\[5, 2, 3, 3\]"),
        ({"images": np.zeros((5, 2, 2), np.uint8)}, r"\[5, 2, 2\]"),
        ({"images": np.zeros((5, 2, 2, 1), np.uint8)}, r"\[5, 2, 2, 1\]"),
        ({"labels": np.zeros(4, np.int64)}, "4 labels for 5 images"),
        ({"paths": ("a",)}, "1 paths for 5 images"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message) -> None:
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_digits_are_the_scikit_learn_ones() -> None:
    from sklearn.datasets import load_digits

    small = sources.load(DataConfig(name="digits", image_size=8), "pretext")
    truth = load_digits()
    assert small.images.shape == (1797, 8, 8, 3)
    for channel in range(3):
        error = small.images[..., channel] * (16 / 255) - truth.images
        assert np.abs(error).max() <= 8 / 255 + 1e-9  # half a step of the rounding
    np.testing.assert_array_equal(small.labels, truth.target)
    assert small.labels.dtype == np.int64
    assert small.class_names == tuple("0123456789")


def test_digits_are_enlarged_and_described() -> None:
    large = sources.load(DataConfig(), "train")
    assert large.images.shape == (1797, digits.DEFAULT_SIZE, digits.DEFAULT_SIZE, 3)
    assert large.images.dtype == np.uint8
    scaled = large.images / 255
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), large.mean, rtol=1e-9)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), large.std, rtol=1e-9)
    # Enlarging keeps the picture: averaging it down again gives about the small one.
    small = sources.load(DataConfig(image_size=8), "train").images.astype(float)
    back = large.images.reshape(1797, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.corrcoef(back.ravel(), small.ravel())[0, 1] > 0.99
    assert sources.load(DataConfig(), "test") is None


def test_constants() -> None:
    """Reference: mean and deviation of the official configurations."""
    assert cifar10.MEAN == (0.4914, 0.4822, 0.4465)
    assert cifar10.STD == (0.2023, 0.1994, 0.2010)
    assert cifar20.MEAN == (0.5071, 0.4867, 0.4408)
    assert cifar20.STD == (0.2675, 0.2565, 0.2761)
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)
    assert len(cifar10.CLASS_NAMES) == len(stl10.CLASS_NAMES) == 10
    assert len(cifar20.CLASS_NAMES) == 20
    assert len(set(cifar20.FINE_NAMES)) == 100
    assert all(len(fine) == 5 for fine in cifar20.SUPERCLASSES.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifr10", "Did you mean 'cifar10'.*folder"),
        ("images", "no data set 'images'"),
        ("tfds:no_such_set", "no data set 'no_such_set'"),
        ("tfds:glue", "holds no images"),
    ],
)
def test_unknown_names(name, message) -> None:
    with pytest.raises(ConfigError, match=message):
        sources.load(DataConfig(name=name), "train")


def test_unknown_split() -> None:
    with pytest.raises(ConfigError, match="split: 'tset'.*'test'"):
        sources.load(DataConfig(), "tset")


@pytest.mark.parametrize(
    ("name", "builder"), [("cifar10", "cifar10"), ("cifar20", "cifar100"), ("stl10", "stl10")]
)
def test_a_set_that_is_not_prepared_says_how(tmp_path, name, builder) -> None:
    with pytest.raises(MissingDataError) as caught:
        sources.load(DataConfig(name=name, path=str(tmp_path)), "train")
    text = str(caught.value)
    assert f"tfds.builder('{builder}', data_dir='{tmp_path}').download_and_prepare()" in text
    assert f"scan-tf prepare --from FOLDER --as {builder} --data-dir {tmp_path}" in text
    assert caught.value.exit_code == 3


def test_a_set_that_prepare_cannot_write_says_so(tmp_path) -> None:
    with pytest.raises(MissingDataError, match="data.name: folder") as caught:
        sources.load(DataConfig(name="mnist", path=str(tmp_path)), "train")
    assert "scan-tf prepare" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_image_features_become_rgb(channels) -> None:
    import tensorflow as tf

    gray = tf.constant(np.full((2, 2, channels), 40, np.uint8))
    np.testing.assert_array_equal(tfds._to_rgb(gray), np.full((2, 2, 3), 40))
    deep = tf.constant(np.full((2, 2, channels), 40 * 257, np.uint16))
    np.testing.assert_array_equal(tfds._to_rgb(deep), np.full((2, 2, 3), 40))
