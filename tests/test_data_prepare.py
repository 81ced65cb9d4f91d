"""Folder -> files of tensorflow-datasets -> plain `tfds.load` and `sources.load`."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_full_disk import no_room

from scan_tf.config import DataConfig
from scan_tf.data import sources
from scan_tf.data.image_set import IMAGENET_MEAN
from scan_tf.data.prepare import LABELS, prepare
from scan_tf.data.sets import cifar10, cifar20, stl10
from scan_tf.data.tfds import _PREPARABLE, DEFAULT_SIZE
from scan_tf.errors import ConfigError, DataError, MissingDataError, StageError

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_tfds.py"


def write(root: Path, folders: dict[str, int], *, size: int) -> dict[bytes, str]:
    """Random PNG images, so many per folder; returns pixels -> path."""
    rng, written = np.random.default_rng(0), {}
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i:04}.png")
            written[pixels.tobytes()] = f"{folder}/{i:04}.png"
    return written


def plain(name: str, data_dir: Path, split: str) -> list[dict]:
    """What a program without this package reads."""
    loaded = tfds.load(name, split=split, data_dir=str(data_dir), download=False)
    return list(tfds.as_numpy(loaded))


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "images", tmp_path / "tfds"


def test_cifar10_round_trip(dirs) -> None:
    source, target = dirs
    folders = {f"train/{name}": 3 for name in cifar10.CLASS_NAMES}
    written = write(source, folders | {"test/truck": 2, "test/cat": 1}, size=32)
    where = prepare(source, "cifar10", target)
    assert where == target / "cifar10" / tfds.builder_cls("cifar10").VERSION.__str__()
    for split, count in (("train", 30), ("test", 3)):
        examples = plain("cifar10", target, split)
        assert len(examples) == count
        for example in examples:
            path = written[example["image"].tobytes()]
            assert path.split("/")[:2] == [split, cifar10.CLASS_NAMES[example["label"]]]
        loaded = sources.load(DataConfig(name="cifar10", path=str(target)), split)
        np.testing.assert_array_equal(loaded.images, [e["image"] for e in examples])
        np.testing.assert_array_equal(loaded.labels, [e["label"] for e in examples])
        assert loaded.labels.dtype == np.int64
        assert loaded.class_names == cifar10.CLASS_NAMES
        assert (loaded.mean, loaded.std) == (cifar10.MEAN, cifar10.STD)


def test_what_is_written_is_the_builder_s_own_format(dirs) -> None:
    source, target = dirs
    write(source, {"train/cat": 1}, size=32)
    where = prepare(source, "cifar10", target)
    info = json.loads((where / "dataset_info.json").read_text())
    assert info["moduleName"] == "tensorflow_datasets.image_classification.cifar"
    assert info["fileFormat"] == "tfrecord"
    assert [s["name"] for s in info["splits"]] == ["train"]
    assert (where / "features.json").exists()
    assert (where / "label.labels.txt").read_text().split() == list(cifar10.CLASS_NAMES)
    assert sorted(p.name for p in target.iterdir()) == ["cifar10"]


def test_a_set_without_test_images_has_no_test_split(dirs) -> None:
    source, target = dirs
    write(source, {"train/cat": 2}, size=32)
    prepare(source, "cifar10", target)
    assert sources.load(DataConfig(name="cifar10", path=str(target)), "test") is None


def test_preparing_twice_gives_the_same_order(dirs, tmp_path) -> None:
    source, target = dirs
    write(source, {"train/cat": 20, "train/dog": 20}, size=32)
    prepare(source, "cifar10", target)
    prepare(source, "cifar10", tmp_path / "again")
    first, second = (
        sources.load(DataConfig(name="cifar10", path=str(p)), "train")
        for p in (target, tmp_path / "again")
    )
    np.testing.assert_array_equal(first.images, second.images)
    assert first.labels.tolist() != sorted(first.labels.tolist())


def test_other_sizes_are_fitted(dirs) -> None:
    source, target = dirs
    write(source, {"train/cat": 1}, size=50)
    prepare(source, "cifar10", target)
    small = sources.load(DataConfig(name="cifar10", path=str(target), image_size=16), "train")
    assert small.images.shape == (1, 16, 16, 3)


def test_all_images_that_cannot_be_read_are_named_or_left_out(dirs, caplog) -> None:
    source, target = dirs
    write(source, {"train/cat": 2, "train/dog": 1, "test/dog": 1}, size=32)
    broken = ("train/cat/x1.jpg", "train/dog/x2.jpg", "test/dog/x3.jpg")
    for name in broken:
        (source / name).write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"(?s)^3 images cannot be read.*--skip-unreadable"
    ) as error:
        prepare(source, "cifar10", target)
    assert all(str(source / name) in str(error.value) for name in broken)
    assert not target.exists()
    prepare(source, "cifar10", target, skip_unreadable=True)
    assert "They are left out." in caplog.text
    assert len(sources.load(DataConfig(name="cifar10", path=str(target)), "train")) == 3


@pytest.mark.parametrize("own_map", [False, True])
def test_cifar100_becomes_cifar20(dirs, own_map) -> None:
    source, target = dirs
    fine = ("apple", "woman", "tractor", "train")
    written = write(source, {f"train/{name}": 1 for name in fine}, size=32)
    coarse = dict(cifar20.FINE_TO_COARSE)
    if own_map:
        coarse["apple"] = "trees"
        (source / "fine_to_coarse.json").write_text(json.dumps(coarse))
    prepare(source, "cifar20", target)
    for example in plain("cifar100", target, "train"):
        name = written[example["image"].tobytes()].split("/")[1]
        assert cifar20.FINE_NAMES[example["label"]] == name
        assert cifar20.CLASS_NAMES[example["coarse_label"]] == coarse[name]
    loaded = sources.load(DataConfig(name="cifar20", path=str(target)), "train")
    names = [written[image.tobytes()].split("/")[1] for image in loaded.images]
    assert [loaded.class_names[i] for i in loaded.labels] == [coarse[n] for n in names]
    assert (loaded.name, loaded.num_classes, loaded.mean) == ("cifar20", 20, cifar20.MEAN)


@pytest.mark.parametrize("spelling", ["unlabelled", "unlabeled"])
def test_stl10_pretext_sees_train_and_unlabelled(dirs, spelling) -> None:
    source, target = dirs
    folders = {"train/car": 2, "train/monkey": 2, "test/car": 1, spelling: 5}
    written = write(source, folders, size=96)
    prepare(source, "stl10", target)
    assert {int(e["label"]) for e in plain("stl10", target, "unlabelled")} == {-1}
    config = DataConfig(name="stl10", path=str(target))
    pretext, train, test = (sources.load(config, s) for s in ("pretext", "train", "test"))
    assert pretext.images.shape == (9, 96, 96, 3)
    assert pretext.labels is None
    np.testing.assert_array_equal(pretext.images[:4], train.images)
    assert {written[i.tobytes()].split("/")[0] for i in pretext.images[4:]} == {spelling}
    assert [written[i.tobytes()].split("/")[1] for i in train.images] == [
        stl10.CLASS_NAMES[k] for k in train.labels
    ]
    assert len(test) == 1
    assert test.mean == IMAGENET_MEAN


def test_stl10_without_unlabelled_images(dirs) -> None:
    source, target = dirs
    write(source, {"train/car": 2}, size=96)
    prepare(source, "stl10", target)
    pretext = sources.load(DataConfig(name="stl10", path=str(target)), "pretext")
    assert len(pretext) == 2
    np.testing.assert_array_equal(pretext.labels, [stl10.CLASS_NAMES.index("car")] * 2)


def test_a_set_of_your_own(dirs) -> None:
    source, target = dirs
    folders = {"train/pear": 2, "train/fig": 1, "test/plum": 1}
    written = write(source, folders, size=20)
    prepare(source, "my_fruit", target)
    examples = plain("my_fruit", target, "train")
    assert {e["image"].shape for e in examples} == {(20, 20, 3)}
    for name in ("my_fruit", "tfds:my_fruit"):
        found = sources.load(DataConfig(name=name, path=str(target), image_size=20), "train")
        assert found.class_names == ("fig", "pear", "plum")
        paths = [written[image.tobytes()].split("/")[1] for image in found.images]
        assert [found.class_names[i] for i in found.labels] == paths
    test = sources.load(DataConfig(name="my_fruit", path=str(target)), "test")
    assert test.images.shape == (1, DEFAULT_SIZE, DEFAULT_SIZE, 3)


def test_a_set_appears_whole_or_not_at_all(dirs) -> None:
    source, target = dirs
    write(source, {"train/pear": 4, "train/fig": 4}, size=40)
    left = target / "my_fruit" / ".1.0.0.0a1b2c3d.tmp" / "made"  # of a killed program
    left.mkdir(parents=True)
    with no_room(5_000), pytest.raises(StageError, match="are needed there.*Make room"):
        prepare(source, "my_fruit", target)
    assert [p.name for p in target.rglob("*")] == ["my_fruit"]
    assert prepare(source, "my_fruit", target) == target / "my_fruit" / "1.0.0"
    assert [p.name for p in (target / "my_fruit").iterdir()] == ["1.0.0"]
    assert len(plain("my_fruit", target, "train")) == 8


@pytest.mark.parametrize(
    ("name", "folders", "message"),
    [
        ("cifar10", {"train/autmobile": 1}, "autmobile.*Did you mean 'automobile'"),
        ("cifar10", {"train": 1}, "expected a class folder"),
        ("cifar10", {"cat": 1}, r"expected images in .*train/CLASS.*found \['cat'\]"),
        ("cifar10", {"train/cat": 0}, "expected images in"),
        ("cifar100", {"train/cat": 1}, "'cat' is no class"),
    ],
)
def test_layouts_that_do_not_fit(dirs, name, folders, message) -> None:
    source, target = dirs
    write(source, folders, size=32)
    with pytest.raises(DataError, match=message):
        prepare(source, name, target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object"),
        ('{"aple": "trees"}', "Did you mean 'apple'"),
        ('{"apple": "tree"}', "Did you mean 'trees'"),
    ],
)
def test_a_bad_map_of_superclasses(dirs, text, message) -> None:
    source, target = dirs
    write(source, {"train/apple": 1}, size=32)
    (source / "fine_to_coarse.json").write_text(text)
    with pytest.raises(DataError, match=f"fine_to_coarse.json.*{message}"):
        prepare(source, "cifar100", target)


@pytest.mark.parametrize(
    ("name", "message"),
    [("mnist", "cannot write"), ("My Fruit", "lower_case"), ("../up", "lower_case")],
)
def test_names_that_cannot_be_used(dirs, name, message) -> None:
    source, target = dirs
    write(source, {"train/cat": 1}, size=32)
    with pytest.raises(ConfigError, match=message):
        prepare(source, name, target)


def test_a_broken_image_leaves_nothing_behind(dirs) -> None:
    source, target = dirs
    write(source, {"train/cat": 2}, size=32)
    (source / "train/cat/0001.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"0001\.png: cannot be read"):
        prepare(source, "cifar10", target)
    config = DataConfig(name="cifar10", path=str(target))
    with pytest.raises(MissingDataError, match="scan-tf prepare"):
        sources.load(config, "train")
    write(source, {"train/dog": 1}, size=32)
    (source / "train/cat/0001.png").unlink()
    prepare(source, "cifar10", target)
    assert len(sources.load(config, "train")) == 2


def test_nothing_is_overwritten(dirs) -> None:
    source, target = dirs
    write(source, {"train/cat": 1}, size=32)
    where = prepare(source, "cifar10", target)
    with pytest.raises(DataError, match=f"{where}: 'cifar10' is there already"):
        prepare(source, "cifar10", target)


def test_damaged_files_are_reported(dirs) -> None:
    source, target = dirs
    write(source, {"train/cat": 4}, size=32)
    where = prepare(source, "cifar10", target)
    (shard,) = where.glob("*.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged after"):
        sources.load(DataConfig(name="cifar10", path=str(target)), "train")


def test_missing_source(tmp_path) -> None:
    with pytest.raises(MissingDataError, match="nowhere.*--from"):
        prepare(tmp_path / "nowhere", "cifar10", tmp_path)


def test_the_advice_names_what_can_be_prepared() -> None:
    assert set(_PREPARABLE) == set(LABELS)


def test_the_script(dirs, monkeypatch, capsys) -> None:
    source, target = dirs
    write(source, {"train/cat": 1}, size=32)
    options = ["--from", str(source), "--as", "cifar10", "--data-dir", str(target)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    for code, text in ((0, str(target)), (2, "is there already")):
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert ended.value.code == code
        printed = capsys.readouterr()
        assert text in printed.out + printed.err
