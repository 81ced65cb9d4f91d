from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.features
import pytest
from PIL import Image

from scan_tf.config import DataConfig
from scan_tf.data import listing, sources
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet
from scan_tf.data.sets import folder
from scan_tf.errors import ConfigError, DataError, MissingDataError

PACKS = Path(__file__).parents[2] / "shared" / "data"


def write(root: Path, files: Mapping[str, int]) -> Path:
    """Images of one gray value each, by relative path."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 9), (value,) * 3).save(path)
    return root


def load(root: Path | str | None, split: str = "train", **options) -> ImageSet | None:
    path = None if root is None else str(root)
    return sources.load(DataConfig(name="folder", path=path, **options), split)


def test_sub_folders_are_labels_and_the_order_is_sorted(tmp_path) -> None:
    write(tmp_path, {"dog/2.png": 3, "cat/b.png": 2, "dog/1.png": 4, "cat/deep/a.png": 1})
    found = load(tmp_path, image_size=8)
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
    assert found.labels.dtype == np.int64
    names = [str(Path(p).relative_to(tmp_path)) for p in found.paths]
    assert names == ["cat/b.png", "cat/deep/a.png", "dog/1.png", "dog/2.png"]
    np.testing.assert_array_equal(
        found.images, np.array([2, 1, 4, 3])[:, None, None, None] * np.ones((1, 8, 8, 3))
    )
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert load(tmp_path, "test") is None


@pytest.mark.parametrize(
    "files",
    [{"a.png": 1, "b.png": 2}, {"only/a.png": 1, "only/b.png": 2}],
    ids=["flat", "one sub-folder"],
)
def test_nothing_to_tell_apart_is_no_label(tmp_path, files) -> None:
    found = load(write(tmp_path, files))
    assert found.labels is None
    assert found.class_names == ()
    assert found.num_classes is None
    assert found.images.shape == (2, folder.DEFAULT_SIZE, folder.DEFAULT_SIZE, 3)


def test_images_beside_class_folders_drop_the_labels(tmp_path, caplog) -> None:
    found = load(write(tmp_path, {"top.png": 1, "cat/a.png": 2, "dog/a.png": 3}))
    assert len(found) == 3
    assert found.labels is None
    assert "no labels" in caplog.text


@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [
        ("train", "test"),
        ("train", "val"),
        ("train", "valid"),
        ("TRAIN", "Validation"),
        ("Training", "Testing"),
        ("Training", "Test"),
        ("train", "dev"),
        ("train", "evaluation"),
    ],
)
def test_train_and_test_folders_are_the_splits(tmp_path, caplog, train_name, test_name) -> None:
    files = {f"{train_name}/a/1.png": 1, f"{train_name}/c/1.png": 2, f"{test_name}/c/1.png": 4}
    write(tmp_path, files | {"elsewhere/x.png": 5})
    train, test = load(tmp_path), load(tmp_path, "test")
    assert f"takes {train_name}/ and {test_name}/, and leaves out elsewhere/." in caplog.text
    assert train.class_names == test.class_names == ("a", "c")
    np.testing.assert_array_equal(train.labels, [0, 1])
    np.testing.assert_array_equal(test.labels, [1])
    np.testing.assert_array_equal(load(tmp_path, "pretext").images, train.images)


def test_of_several_for_the_test_the_first_is_taken(tmp_path, caplog) -> None:
    write(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2, "valid/a/1.png": 3, "test/a/1.png": 4})
    assert load(tmp_path, "test").images[0, 0, 0, 0] == 4
    load(tmp_path)
    assert "leaves out valid/" in caplog.text


@pytest.mark.parametrize("names", [("train", "Train"), ("test", "val"), ("train", "Training")])
def test_split_names_that_are_no_pair_are_refused(tmp_path, names) -> None:
    write(tmp_path, {f"{name}/a/1.png": 1 for name in (*names, "cat")})
    with pytest.raises(DataError, match="are called like splits, and are no pair"):
        load(tmp_path)


def test_classes_are_those_of_the_training_images_that_can_be_read(tmp_path, caplog) -> None:
    write(tmp_path, {"train/a/1.png": 1, "train/c/1.png": 2, "train/c/0.png": 3})
    write(tmp_path, {"test/a/1.png": 5, "test/b/1.png": 6, "test/loose.png": 7})
    (tmp_path / "train" / "d").mkdir()
    for broken in ("d/1.png", "c/0.png"):
        (tmp_path / "train" / broken).write_bytes(b"broken")
    train, test = load(tmp_path), load(tmp_path, "test")
    assert train.class_names == test.class_names == ("a", "c")
    assert train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [0]
    assert len(test.paths) == 1
    assert "left out 2 images of classes that no training image has: b, no folder" in caplog.text


@pytest.mark.parametrize("test", ["test/unknown", "test"])
def test_an_unlabelled_test_folder_takes_no_labels_from_train(tmp_path, test) -> None:
    write(tmp_path, {"train/cat/1.png": 1, "train/dog/1.png": 2, f"{test}/1.png": 3})
    assert load(tmp_path).class_names == ("cat", "dog")
    found = load(tmp_path, "test")
    assert (found.labels, found.class_names, len(found)) == (None, (), 1)


def test_a_lone_train_folder_is_the_train_split(tmp_path) -> None:
    write(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2})
    assert load(tmp_path).class_names == ("a", "b")
    assert load(tmp_path, "test") is None


def test_train_may_also_be_a_class(tmp_path) -> None:
    write(tmp_path, {"train/1.png": 1, "car/1.png": 2})
    assert load(tmp_path).class_names == ("car", "train")


def test_unreadable_files_are_skipped_and_listed(tmp_path, caplog) -> None:
    write(tmp_path, {"a/1.png": 1, "a/3.png": 3, "b/1.png": 4})
    (tmp_path / "a/2.jpg").write_bytes(b"broken")
    found = load(tmp_path, image_size=4)
    assert found.skipped == (str(tmp_path / "a/2.jpg"),)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], [1, 3, 4])
    np.testing.assert_array_equal(found.labels, [0, 0, 1])
    assert len(found.paths) == 3
    assert "1 of 4 images cannot be read" in caplog.text
    assert "2.jpg" in caplog.text


def test_strict_refuses_unreadable_files(tmp_path) -> None:
    write(tmp_path, {"ok.png": 1})
    for i in range(12):
        (tmp_path / f"bad{i:02}.jpg").write_bytes(b"broken")
    said = r"(?s)12 of 13.*bad00\.jpg.*and 2 more.*data\.strict: false"
    with pytest.raises(DataError, match=said):
        load(tmp_path, strict=True)


def test_what_is_left_out_is_named_or_refused(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(listing, "_reads_heif", lambda: False)
    write(tmp_path, {"a/1.png": 1, "b/1.png": 2, "run/eval/clusters/0.png": 3})
    for name in ("a/x.heic", "a/y.HEIC", "b/z.cr2", "b/notes.txt", "run/config.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "run" / "status").mkdir()
    found = load(tmp_path)
    assert found.class_names == ("a", "b")
    assert "2 of the kind .heic, not read (pip install pillow-heif): " in caplog.text
    assert "1 of the kind .cr2, not read: " in caplog.text
    assert f"1 run directory of scan_tf: {tmp_path / 'run'}" in caplog.text
    assert "notes" not in caplog.text
    with pytest.raises(DataError, match=r"(?s)left out:.*x\.heic.*data\.strict: false"):
        load(tmp_path, strict=True)


def test_a_folder_that_cannot_be_listed_is_named_or_refused(tmp_path, caplog, monkeypatch) -> None:
    write(tmp_path, {"a/1.png": 1, "b/1.png": 2, "c/1.png": 3})
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "b":  # as for a user who may not read it; root may
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert load(tmp_path).class_names == ("a", "c")
    assert f"1 that cannot be read as a folder: {tmp_path / 'b'}" in caplog.text
    with pytest.raises(DataError, match=r"(?s)left out:.*cannot be read as a folder"):
        load(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("tif", "TIFF"),
        ("TIFF", "TIFF"),
        ("jfif", "JPEG"),
        ("jpe", "JPEG"),
        ("avif", "AVIF"),
        ("jp2", "JPEG2000"),
    ],
)
def test_other_kinds_that_pillow_reads_are_read(tmp_path, suffix, kind) -> None:
    features = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
    if kind in features and not PIL.features.check(features[kind]):
        pytest.skip(f"this Pillow has no {kind}")
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / f"a.{suffix}", format=kind)
    (pixels,) = load(tmp_path, image_size=16).images
    assert np.abs(pixels[8, 8].astype(int) - (200, 100, 50)).max() < 8


def test_images_of_twelve_bits_are_not_black(tmp_path, caplog) -> None:
    for name, top in (("dark", 4095), ("bright", 65535)):
        values = np.array([[0, top // 2], [top // 4, top]], np.uint16).repeat(2, 0).repeat(2, 1)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    bright, dark = load(tmp_path, image_size=4).images[:, ::2, ::2, 0]
    np.testing.assert_array_equal(bright, dark)
    assert dark.tolist() == [[0, 127], [64, 255]]
    assert "1 of 2 images of 16 bits that were looked at have no value above 4095" in caplog.text


def test_errors_say_what_is_missing(tmp_path) -> None:
    with pytest.raises(ConfigError, match="data.path"):
        load(None)
    with pytest.raises(MissingDataError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no images.*\.jpg"):
        load(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"(?s)1 of 1.*no image left"):
        load(tmp_path)
    with pytest.raises(DataError, match="must be a folder"):
        load(tmp_path / "broken.jpg")


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pack = PACKS / "weather4-small.tar.xz"
    if not pack.exists():
        pytest.skip("needs the optional folder ../shared/data")
    target = tmp_path_factory.mktemp("weather")
    with tarfile.open(pack) as tar:
        tar.extractall(target, filter="data")
    return target / "weather4-small"


def test_a_real_folder_of_photos(weather) -> None:
    """1,121 files of 87 sizes; ten of them are PNG, GIF or gray under the name of a JPEG."""
    found = load(weather, image_size=32)
    assert found.images.shape == (1121, 32, 32, 3)
    assert found.class_names == ("cloudy", "rain", "shine", "sunrise")
    assert np.bincount(found.labels).tolist() == [300, 214, 253, 354]
    assert found.skipped == ()
    assert found.images.std((1, 2, 3)).min() > 1
    gray = found.images[[i for i, p in enumerate(found.paths) if "cloudy66." in p]]
    assert len(gray) == 1
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    again = load(weather, image_size=32)
    np.testing.assert_array_equal(again.images, found.images)


def test_small_images_are_named_for_what_enlarging_them_costs(tmp_path, caplog) -> None:
    write(tmp_path, {"1.png": 1, "2.png": 2, "3.png": 3})
    (tmp_path / "4.png").write_bytes(b"broken")
    load(tmp_path, image_size=6)
    assert "enlarged" not in caplog.text
    load(tmp_path, image_size=12)
    assert (
        "most images are smaller than data.image_size=12, about 6 pixels: they are enlarged. A "
        "network that was trained on photos may well see more then; one that learns from these "
        "images takes 4.0 times as long as with data.image_size=6." in caplog.text
    )
