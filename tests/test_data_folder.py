from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scan_tf.config import DataConfig
from scan_tf.data import images, sources
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


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_train_and_test_folders_are_the_splits(tmp_path, test_name) -> None:
    files = {"train/a/1.png": 1, "train/c/1.png": 2, f"{test_name}/b/1.png": 3}
    write(tmp_path, files | {f"{test_name}/c/1.png": 4, "elsewhere/x.png": 5})
    train, test = load(tmp_path), load(tmp_path, "test")
    assert train.class_names == test.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(train.labels, [0, 2])
    np.testing.assert_array_equal(test.labels, [1, 2])
    np.testing.assert_array_equal(load(tmp_path, "pretext").images, train.images)


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


def test_large_folders_go_to_a_file_and_stay_right(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(images, "MEMORY_LIMIT", 10)
    write(tmp_path, {f"{i:02}.png": i for i in range(30)})
    (tmp_path / "03.png").write_bytes(b"broken")
    found = load(tmp_path, image_size=4)
    assert isinstance(found.images, np.memmap)
    assert found.images[:, 0, 0, 0].tolist() == [i for i in range(30) if i != 3]


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
        "network that learns from them takes 4.0 times as long as with data.image_size=6;"
        in caplog.text
    )
