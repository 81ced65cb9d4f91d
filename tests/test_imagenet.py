"""ImageNet in its usual tree and as tensorflow-datasets stores it, made of random images."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image
from tiny_runs import scan_tf

from scan_tf.config import DataConfig
from scan_tf.data import load as load_set
from scan_tf.data import sources, stored, tfds
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD
from scan_tf.data.imagenet_subsets import SUBSETS
from scan_tf.data.prepare import prepare
from scan_tf.errors import ConfigError, DataError, MissingDataError

FIFTY = SUBSETS["imagenet50"]
OTHER = "n01440764"  # tench, in none of the subsets


def write(folder, count: int, *, seed: int, size=(40, 30)) -> None:
    """JPEG files as they are called there: the class, and numbers that are not in order."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize(size).save(folder / f"{folder.name}_{(7 * number) % 10}.JPEG")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two training images and one for the validation of 51 classes."""
    root = tmp_path_factory.mktemp("ILSVRC2012")
    for number, name in enumerate((*FIFTY, OTHER)):
        write(root / "train" / name, 2, seed=number)
        write(root / "val" / name, 1, seed=100 + number)
    return root


def test_the_subsets_are_scans():
    expected = {
        "imagenet50": ("n01601694", "n07753592", "ac8134b3c52e7579be212659e3c9d22131e0a655"),
        "imagenet100": ("n01558993", "n11879895", "fe8959b5f87ec66368fda940dcf709500cbf530d"),
        "imagenet200": ("n01443537", "n11879895", "fca8e3dd52db9f95c98c130957301a4061f56200"),
    }
    for name, (first, last, digest) in expected.items():
        classes = SUBSETS[name]
        assert len(set(classes)) == len(classes) == int(name.removeprefix("imagenet"))
        assert (classes[0], classes[-1]) == (first, last)
        assert classes == tuple(sorted(classes))
        assert hashlib.sha256("\n".join(classes).encode()).hexdigest().startswith(digest)
    fifty, hundred, two_hundred = (set(SUBSETS[name]) for name in expected)
    assert fifty < hundred < two_hundred


@pytest.mark.parametrize("streaming", ["never", "always"])
def test_a_subset_of_the_tree(tree, tmp_path, streaming):
    config = DataConfig(
        "imagenet",
        str(tree),
        classes="imagenet50",
        image_size=28,
        streaming=streaming,
        cache=str(tmp_path),
    )
    sources.check(config)
    train, test = (load_set(config, split) for split in ("train", "test"))
    assert isinstance(train.images, stored.StoredImages) == (streaming == "always")
    assert train.class_names == test.class_names == FIFTY
    assert train.images.shape == (100, 28, 28, 3)
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(50), 2))
    np.testing.assert_array_equal(test.labels, np.arange(50))
    assert (train.mean, train.std) == (IMAGENET_MEAN, IMAGENET_STD)
    names = [path.rpartition("/")[2] for path in train.paths[:2]]
    assert names == [f"{FIFTY[0]}_0.JPEG", f"{FIFTY[0]}_7.JPEG"]
    # The short side to 32, then the middle 28 of them.
    with Image.open(train.paths[0]) as image:
        square = image.crop((5, 0, 35, 30)).resize((32, 32), Image.Resampling.BILINEAR)
    found = train.images[0].astype(int) - np.asarray(square)[2:30, 2:30]
    assert np.abs(found).mean() < 1
    assert len(load_set(DataConfig("imagenet", str(tree), image_size=28), "train")) == 102


def test_what_is_not_there_is_named(tree, tmp_path):
    def refused(error, match, **settings):
        config = DataConfig(**({"name": "imagenet", "path": str(tree)} | settings))
        for ask in (lambda: sources.check(config), lambda: sources.load(config, "train")):
            with pytest.raises(error, match=match):
                ask()

    refused(DataError, "train: no folder for 50 of the 100 classes of imagenet100: n01558993, ",
            classes="imagenet100")  # fmt: skip
    refused(MissingDataError, "nowhere: no such folder", path=str(tmp_path / "nowhere"))
    refused(MissingDataError, "expected train/ and val/ with a folder", path=str(tmp_path))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    refused(DataError, "no folder is named by a WordNet id", path=str(tmp_path))
    message = "data.classes: 'imagenet50' is a part of imagenet, and data.name is 'digits'"
    refused(ConfigError, message, name="digits", classes="imagenet50")
    (tmp_path / "imagenet2012").mkdir()
    (tmp_path / "train" / "cat").rmdir()
    (tmp_path / "train").rmdir()
    refused(MissingDataError, "imagenet2012", path=str(tmp_path))


def test_some_classes_of_a_prepared_set(tmp_path):
    names = ("n1", "n2", "n3")
    for number, name in enumerate(names):
        write(tmp_path / "from" / "train" / name, number + 1, seed=number, size=(32, 32))
    prepare(tmp_path / "from", "mini", tmp_path / "tfds")
    config = DataConfig("mini", str(tmp_path / "tfds"), image_size=32)
    constants = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    whole = tfds.load_set("mini", config, "train", **constants)
    found = tfds.load_set(
        "mini", config, "train", **constants, size=28, fitted=32, classes=("n2", "n3")
    )
    assert found.class_names == ("n2", "n3")
    np.testing.assert_array_equal(found.labels, whole.labels[whole.labels > 0] - 1)
    chosen = whole.images[np.flatnonzero(whole.labels > 0)]
    np.testing.assert_array_equal(found.images, chosen[:, 2:30, 2:30])
    with pytest.raises(DataError, match="has no class n9"):
        tfds.load_set("mini", config, "train", **constants, classes=("n1", "n9"))


@pytest.mark.slow
def test_the_whole_path_on_a_tree(tree, tmp_path):
    small = ["model.backbone=resnet10", "model.width=4", "data.image_size=28"]
    small += ["pretext.name=simclr", "pretext.epochs=1", "pretext.batch_size=32", "neighbors.k=5"]
    small += ["scan.epochs=1", "scan.batch_size=32", "scan.num_heads=2", "selflabel.epochs=1"]
    small += ["selflabel.batch_size=32", "selflabel.threshold=0", "augment.cutout=9"]
    small += ["evaluate.pictures=false", "runtime.progress=false", "runtime.dtype=float32"]
    command = ("run", "--config", "imagenet50", "--run-dir", tmp_path / "run")
    assert scan_tf(*command, f"data.path={tree}", *small) == 0
    assert (tmp_path / "run" / "export" / "saved_model.pb").exists()
