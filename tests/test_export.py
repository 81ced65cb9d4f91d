from __future__ import annotations

import csv
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from scan_tf.config import DataConfig
from scan_tf.data import sources
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet
from scan_tf.data.images import read_image, resize_and_crop
from scan_tf.errors import ConfigError, DataError, MissingDataError, StageError
from scan_tf.evaluation import abstention
from scan_tf.features import outliers
from scan_tf.features.embedding import embed
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.resnet import ResNet
from scan_tf.models.weights import load_weights, save_weights
from scan_tf.pipeline import savedmodel
from scan_tf.pipeline.doubt import Doubt
from scan_tf.pipeline.prediction import predict
from scan_tf.storage import files

SIZE = 12
CLUSTERS = 5
MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
# One of each stem and kind of block, with unequal stages.
NETWORKS = {
    "cifar": {"blocks": (0, 0, 1, 1), "stem": "cifar", "width": 4},
    "stl": {"blocks": (0, 2, 0, 1), "stem": "stl", "width": 2},
    "imagenet": {"blocks": (0, 0, 2, 1), "stem": "imagenet", "width": 2, "bottleneck": True},
}

# A program that has only TensorFlow: an input .npz to an output .npz.
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
results = {}
for name, images in np.load(sys.argv[2]).items():
    for key, value in model(images=tf.constant(images)).items():
        results[f"{name}/{key}"] = value.numpy()
assert "scan_tf" not in sys.modules
np.savez(sys.argv[3], **results)
"""


def build(kind: str, dtype: str) -> ResNet:
    return ResNet(**NETWORKS[kind], dtype=dtype, image_size=SIZE, mean=MEAN, std=STD)


def make(kind: str, dtype: str) -> tuple[ResNet, ClusterHeads]:
    """Networks as after training: no variable has its initial value."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    backbone = build(kind, dtype)
    heads = ClusterHeads(1, CLUSTERS)
    heads.build((None, backbone.feature_dim))
    for variable in backbone.variables:
        variable.assign(variable.numpy() * random.uniform(0.8, 1.2, variable.shape))
        if variable.name in ("beta", "moving_mean"):
            variable.assign(random.normal(0, 0.2, variable.shape))
    for variable in heads.variables:
        variable.assign(random.normal(0, 1, variable.shape))
    return backbone, heads


def save(directory: Path, backbone: ResNet, heads: ClusterHeads) -> None:
    savedmodel.save(directory, backbone, heads)


def serve(directory: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a SavedModel loaded by plain TensorFlow."""
    model = tf.saved_model.load(str(directory))
    out = model.signatures["serving_default"](images=tf.constant(images))
    return {k: v.numpy() for k, v in out.items()}


def in_memory(backbone: ResNet, heads: ClusterHeads, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the stages of the pipeline compute from uint8 [B,S,S,3]."""
    image_set = ImageSet(
        name="test", split="train", images=images, labels=None, class_names=(), mean=MEAN, std=STD
    )
    embedded = embed(backbone.embed, image_set)
    probs = tf.nn.softmax(heads(embedded)[0]).numpy()
    return {"features": embedded, "probabilities": probs, "cluster": probs.argmax(-1)}


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def networks() -> tuple[ResNet, ClusterHeads]:
    return make("cifar", "float32")


@pytest.fixture(scope="module")
def run_dir(
    tmp_path_factory: pytest.TempPathFactory, networks: tuple[ResNet, ClusterHeads]
) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save(folder / "export", *networks)
    return folder


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Files of several shapes and kinds; `bad.png` and `sub/empty.jpg` cannot be read."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, shape in {
        "native.png": (SIZE, SIZE, 3),
        "wide.png": (20, 41, 3),
        "gray.png": (30, 15),
        "clear.png": (16, 17, 4),
        "sub/small.bmp": (5, 4, 3),
    }.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (folder / "sub" / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_program_with_tensorflow_alone_gets_the_same(tmp_path, networks, run_dir, rng) -> None:
    native = rng.integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
    wide = rng.integers(0, 256, (2, 20, 41, 3), np.uint8)
    large = rng.integers(0, 256, (1, 100, 70, 3), np.uint8)
    np.savez(tmp_path / "in.npz", native=native, wide=wide, large=large)
    arguments = [str(run_dir / "export"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, cwd=tmp_path, capture_output=True
    )
    out = np.load(tmp_path / "out.npz")
    for name, images in {"native": native, "wide": wide, "large": large}.items():
        squares = resize_and_crop(images, SIZE).numpy()
        expected = in_memory(*networks, squares)
        assert out[f"{name}/cluster"].dtype == np.int64
        assert out[f"{name}/probabilities"].dtype == out[f"{name}/features"].dtype == np.float32
        np.testing.assert_array_equal(out[f"{name}/cluster"], expected["cluster"])
        for key in ("probabilities", "features"):
            assert out[f"{name}/{key}"].shape == expected[key].shape
            np.testing.assert_allclose(out[f"{name}/{key}"], expected[key], rtol=1e-4, atol=1e-5)
    assert len(np.unique(out["native/probabilities"].round(2), axis=0)) == 6


def test_signature_takes_any_shape_and_names_its_outputs(run_dir) -> None:
    signature = tf.saved_model.load(str(run_dir / "export")).signatures["serving_default"]
    _, arguments = signature.structured_input_signature
    outputs = signature.structured_outputs
    assert list(arguments) == ["images"]
    assert arguments["images"].shape.as_list() == [None, None, None, 3]
    assert arguments["images"].dtype == tf.uint8
    assert {k: v.shape.as_list() for k, v in outputs.items()} == {
        "cluster": [None],
        "name": [None],
        "probabilities": [None, CLUSTERS],
        "features": [None, 32],
    }


@pytest.fixture(scope="module")
def doubting(
    tmp_path_factory: pytest.TempPathFactory, networks: tuple[ResNet, ClusterHeads]
) -> tuple[Path, Doubt]:
    """A SavedModel with names and thresholds, and what it abstains by."""
    folder = tmp_path_factory.mktemp("doubting") / "export"
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)
    found = outliers.reference(in_memory(*networks, images)["features"])
    doubt = Doubt(found.bank, found.far, below=0.7, how="as set")
    savedmodel.save(folder, *networks, names=["", "ä b", "c", "", "e"], doubt=doubt)
    return folder, doubt


def test_names_and_doubts_are_in_the_model(networks, doubting, rng) -> None:
    folder, doubt = doubting
    images = rng.integers(0, 256, (30, SIZE, SIZE, 3), np.uint8)
    images[:3] = np.array([0, 128, 255], np.uint8)[:, None, None, None]
    out, expected = serve(folder, images), in_memory(*networks, images)
    names = ["", "ä b", "c", "", "e"]
    assert [n.decode() for n in out["name"]] == [names[c] for c in expected["cluster"]]
    distance = outliers.distances(doubt.bank, expected["features"])
    np.testing.assert_allclose(out["distance"], distance, atol=1e-5)
    reasons = abstention.reasons(
        out["probabilities"].max(axis=1), out["distance"], below=doubt.below, far=doubt.far
    )
    assert [bool(reason) for reason in reasons] == out["abstain"].tolist()
    assert set(reasons) > {""}


def test_a_batch_of_none_gives_none(doubting, run_dir) -> None:
    for folder in (doubting[0], run_dir / "export"):
        one = serve(folder, np.zeros((1, 20, 30, 3), np.uint8))
        for side in (SIZE, 20):
            out = serve(folder, np.zeros((0, side, side, 3), np.uint8))
            assert {k: v.shape for k, v in out.items()} == {
                k: (0, *v.shape[1:]) for k, v in one.items()
            }
            assert {k: v.dtype for k, v in out.items()} == {k: v.dtype for k, v in one.items()}


def test_images_of_the_networks_own_size_have_a_signature_of_bare_numbers(doubting, rng) -> None:
    images = rng.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    native = tf.saved_model.load(str(doubting[0])).signatures["native"](images=images)
    served = serve(doubting[0], images)
    assert set(served) == {*native, "name"}
    for key, tensor in native.items():
        np.testing.assert_array_equal(tensor.numpy(), served[key])


def test_a_native_image_is_served_exactly_as_the_folder_loads_it(run_dir, photos) -> None:
    loaded = sources.load(DataConfig(name="folder", path=str(photos), image_size=SIZE), "train")
    for path, square in zip(loaded.paths, loaded.images, strict=True):
        original = serve(run_dir / "export", read_image(path)[None])
        prepared = serve(run_dir / "export", square[None])
        for key in original:
            np.testing.assert_array_equal(original[key], prepared[key], err_msg=path)


@pytest.mark.parametrize(
    "kind", ["cifar", *(pytest.param(k, marks=pytest.mark.slow) for k in ("stl", "imagenet"))]
)
def test_a_network_trained_in_bfloat16_is_served_in_float32(tmp_path, rng, kind) -> None:
    backbone, heads = make(kind, "mixed_bfloat16")
    save(tmp_path / "export", backbone, heads)
    images = rng.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    out = serve(tmp_path / "export", images)

    save_weights(tmp_path / "weights.npz", {"backbone": backbone})
    full = build(kind, "float32")
    load_weights(tmp_path / "weights.npz", {"backbone": full})
    expected = in_memory(full, heads, images)
    np.testing.assert_allclose(out["features"], expected["features"], rtol=1e-4, atol=1e-5)
    half = in_memory(backbone, heads, images)["features"]
    error = np.abs(half - expected["features"]).max()
    assert error > 10 * np.abs(out["features"] - expected["features"]).max()

    report = savedmodel.check(tmp_path / "export", backbone, heads, images)
    assert report["images"] == 4
    assert report["agreement"] == 1.0
    assert report["max_difference"] < 1e-5


def test_check_refuses_other_weights(run_dir, networks, rng) -> None:
    backbone, heads = networks
    images = rng.integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    other = ClusterHeads(1, CLUSTERS)
    other.build((None, backbone.feature_dim))
    other.heads[0].kernel.assign(-np.asarray(heads.heads[0].kernel))
    with pytest.raises(StageError, match="of 8 images into another cluster"):
        savedmodel.check(run_dir / "export", backbone, other, images)


def test_check_refuses_nan(tmp_path, rng) -> None:
    backbone, heads = make("cifar", "float32")
    heads.heads[0].bias.assign(np.full(CLUSTERS, np.nan))
    save(tmp_path / "export", backbone, heads)
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(StageError, match="nan"):
        savedmodel.check(tmp_path / "export", backbone, heads, images)


def test_model_json_holds_what_a_user_needs_to_know(run_dir) -> None:
    facts = json.loads((run_dir / "export" / "model.json").read_text())
    assert facts["image_size"] == SIZE
    assert facts["num_clusters"] == CLUSTERS
    assert facts["mean"] == list(MEAN)
    assert facts["std"] == list(STD)


def test_a_newer_export_replaces_the_older_one(tmp_path, run_dir, rng) -> None:
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    backbone, heads = make("cifar", "float32")
    shutil.copytree(run_dir / "export", tmp_path / "export")
    before = serve(tmp_path / "export", images)["probabilities"]
    (tmp_path / "export" / "stale.txt").touch()
    heads.heads[0].kernel.assign(-np.asarray(heads.heads[0].kernel))
    save(tmp_path / "export", backbone, heads)
    after = serve(tmp_path / "export", images)["probabilities"]
    assert np.abs(after - before).max() > 0.1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export"]
    assert not (tmp_path / "export" / "stale.txt").exists()


def test_the_older_export_survives_a_failure(tmp_path, networks, run_dir, monkeypatch) -> None:
    shutil.copytree(run_dir / "export", tmp_path / "export")

    def fail_at_the_last_moment(*_: Path) -> bool:
        raise OSError("disk full")

    monkeypatch.setattr(files, "swap", fail_at_the_last_moment)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "export", *networks)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export"]
    serve(tmp_path / "export", np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_save_replaces_nothing_else(tmp_path, networks) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(StageError, match="holds something that is no SavedModel"):
        save(tmp_path, *networks)
    with pytest.raises(StageError, match="holds something that is no SavedModel"):
        save(tmp_path / "photo.png", *networks)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_save_wants_one_head(tmp_path, networks) -> None:
    heads = ClusterHeads(3, CLUSTERS)
    heads.build((None, networks[0].feature_dim))
    with pytest.raises(StageError, match="expected 1 head, got 3"):
        save(tmp_path / "export", networks[0], heads)


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_predict_on_files_of_all_kinds(
    tmp_path, networks, run_dir, photos, caplog, batch_size
) -> None:
    with caplog.at_level(logging.WARNING):
        skipped = predict(run_dir, [photos], tmp_path / "out.csv", batch_size=batch_size)
    assert skipped == [photos / "bad.png", photos / "sub" / "empty.jpg"]
    assert "2 of 7 images cannot be read" in caplog.text
    assert all(str(path) in caplog.text for path in skipped)

    rows = read_csv(tmp_path / "out.csv")
    names = ["clear.png", "gray.png", "native.png", "sub/small.bmp", "wide.png"]
    assert [row["path"] for row in rows] == [str(photos / name) for name in names]
    squares = [resize_and_crop(read_image(row["path"]), SIZE) for row in rows]
    expected = in_memory(*networks, np.stack(squares))
    assert [int(row["cluster"]) for row in rows] == expected["cluster"].tolist()
    confidence = [float(row["confidence"]) for row in rows]
    np.testing.assert_allclose(confidence, expected["probabilities"].max(-1), atol=2e-6)
    assert all(re.fullmatch(r"[01]\.\d{6}", row["confidence"]) for row in rows)


def test_predict_one_image_with_the_savedmodel_itself(run_dir, photos, tmp_path) -> None:
    image = photos / "native.png"
    assert predict(run_dir / "export", [str(image)], tmp_path / "new" / "out.csv") == []
    (row,) = read_csv(tmp_path / "new" / "out.csv")
    assert list(row) == ["path", "cluster", "confidence", "name", "abstain"]
    assert (row["name"], row["abstain"]) == ("", "")
    assert row["path"] == str(image)


def test_predict_keeps_paths_and_their_order(run_dir, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(photos)
    odd = 'a, "b"\n\udcff.png'
    (photos / "native.png").rename(odd)
    predict(run_dir, ["wide.png", odd, "sub/small.bmp", "wide.png"], tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == ["wide.png", odd, "sub/small.bmp"]


def test_predict_strict_names_the_bad_file_and_writes_nothing(run_dir, photos, tmp_path) -> None:
    output = tmp_path / "out" / "out.csv"
    with pytest.raises(DataError, match=r"bad\.png: cannot be read"):
        predict(run_dir, [photos], output, strict=True)
    assert list(output.parent.iterdir()) == []


def test_predict_with_no_readable_image_writes_nothing(run_dir, photos, tmp_path) -> None:
    output = tmp_path / "out" / "out.csv"
    with pytest.raises(
        DataError, match=r"1 of 1 images cannot be read:\n.*bad\.png(.|\n)*no image"
    ):
        predict(run_dir, [photos / "bad.png"], output)
    assert list(output.parent.iterdir()) == []


def test_predict_refuses_what_cannot_work(run_dir, photos, tmp_path) -> None:
    output = tmp_path / "out.csv"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no images"):
        predict(run_dir, [tmp_path / "empty"], output)
    with pytest.raises(MissingDataError, match=r"gone\.png"):
        predict(run_dir, [photos, photos / "gone.png"], output)
    with pytest.raises(StageError, match=f"scan-tf export --run-dir {re.escape(str(tmp_path))}"):
        predict(tmp_path, [photos], output)
    with pytest.raises(DataError, match="is a folder"):
        predict(run_dir, [photos], photos)
    with pytest.raises(ConfigError, match="abstain: must be 0 to 1, got 7"):
        predict(run_dir, [photos], output, abstain=7)
    with pytest.raises(ConfigError, match="batch_size: must be at least 1, got 0"):
        predict(run_dir, [photos], output, batch_size=0)
    assert not output.exists()


@pytest.mark.parametrize("broken", ["saved_model.pb", "model.json", "variables/variables.index"])
def test_predict_refuses_a_damaged_export(tmp_path, run_dir, photos, broken) -> None:
    shutil.copytree(run_dir / "export", tmp_path / "export")
    (tmp_path / "export" / broken).write_bytes(b"\xff damaged")
    with pytest.raises(StageError, match="export: damaged or not exported by scan_tf"):
        predict(tmp_path, [photos], tmp_path / "out.csv")
