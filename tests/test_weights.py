from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny_runs import copy, opened, weights

from scan_tf.data import sources
from scan_tf.errors import DataError, MissingDataError, StageError
from scan_tf.experiments import published_weights as published
from scan_tf.features.embedding import embed
from scan_tf.pipeline import build, corrected, correcting, porting
from scan_tf.pipeline import record as records
from scan_tf.pipeline.corrected import Corrected


@pytest.fixture(scope="module")
def file(finished, tmp_path_factory) -> Path:
    """A published file of the finished run."""
    path = tmp_path_factory.mktemp("published") / "tiny.weights.h5"
    published.save(opened(finished), path)
    return path


@pytest.fixture
def copied(file, tmp_path) -> Path:
    return Path(shutil.copy(file, tmp_path / "copy.weights.h5"))


def edit(path: Path, **changes) -> None:
    with h5py.File(path, "r+") as file:
        facts = json.loads(file["scan_tf"][()]) | changes
        del file["scan_tf"]
        file["scan_tf"] = json.dumps(facts)


def datasets(path: Path) -> dict[str, h5py.Dataset]:
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def test_it_holds_the_weights_as_float16_and_the_statistics_exactly(finished, file):
    classifier, facts = published.load(file)
    backbone, heads = build.calibrated_clusters(opened(finished), "selflabel")
    ours = classifier.backbone.variables + classifier.heads.variables
    theirs = backbone.variables + heads.variables
    assert [v.path.split("/", 1)[1] for v in ours] == [v.path.split("/", 1)[1] for v in theirs]
    for one, other in zip(ours, theirs, strict=True):
        values, exact = np.asarray(one), np.asarray(other)
        if values.ndim < 2:
            np.testing.assert_array_equal(values, exact)
        else:
            np.testing.assert_array_equal(values, exact.astype(np.float16))
            assert (np.abs(values - exact) <= 2.0**-11 * np.abs(exact) + 2.0**-25).all()
    arrays = {k: v for k, v in datasets(file).items() if k != "scan_tf"}
    assert {v.dtype.name for v in arrays.values() if v.ndim >= 2} == {"float16"}
    assert {v.dtype.name for v in arrays.values() if v.ndim == 1} == {"float32"}
    values = sum(v.size for v in weights(finished, "selflabel").values())
    assert sum(v.size for v in arrays.values()) == values


def test_it_says_what_it_takes_to_use_it(finished, file):
    _, facts = published.load(file)
    report = json.loads((finished / "eval" / "report.json").read_text(encoding="utf-8"))
    images = opened(finished).train_images
    assert facts["model"]["backbone"] == "tiny_networks.one_block"
    assert facts["image_size"] == images.image_size
    assert (facts["mean"], facts["std"]) == (list(images.mean), list(images.std))
    assert facts["num_clusters"] == 3
    assert facts["class_names"] == list(images.class_names)
    assert facts["class_of_cluster"] == report["selflabel"]["mapping"]
    assert facts["weights_of"] == "selflabel"
    assert facts["scores"] == {k: report["selflabel"][k] for k in ("acc", "nmi", "ari")}
    assert facts["data"]["path"] is None


def test_it_predicts_as_the_run_to_the_precision_of_float16(finished, file):
    work = opened(finished)
    images = work.images("test")
    classifier, _ = published.load(file)
    backbone, heads = build.calibrated_clusters(work, "selflabel")
    exact = embed(published.Classifier(backbone, heads), images)
    rounded = embed(classifier, images)
    np.testing.assert_allclose(rounded.sum(axis=1), 1, rtol=1e-5)
    # Some ten layers, each of weights that are off by 2**-11 at most.
    assert np.abs(rounded - exact).max() < 0.02
    assert np.abs(rounded - exact).max() > 0


def test_its_scores_are_those_of_the_report(finished, file):
    report = json.loads((finished / "eval" / "report.json").read_text(encoding="utf-8"))
    path = opened(finished).config.data.path
    scores = published.score(file, data_path=path, progress=False)
    assert (scores["split"], scores["num_images"]) == ("test", report["num_images"])
    # Rounding may move an image that lies between two clusters, one of all.
    assert abs(scores["acc"] - report["selflabel"]["acc"]) <= 1.01 / report["num_images"]
    assert abs(scores["nmi"] - report["selflabel"]["nmi"]) <= 0.2
    train = published.score(file, split="train", data_path=path, progress=False)
    assert train["num_images"] == 60


def test_a_run_without_self_labelling_gives_its_scan(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="selflabel")
    with pytest.raises(StageError, match="the stage 'evaluate' has not finished"):
        published.save(opened(run), tmp_path / "x.weights.h5")
    with opened(run).working("evaluate"):
        report = json.loads((finished / "eval" / "report.json").read_text(encoding="utf-8"))
        (run / "eval").mkdir()
        text = json.dumps(report | {"selflabel": None})
        (run / "eval" / "report.json").write_text(text, encoding="utf-8")
    facts = published.save(opened(run), tmp_path / "x.weights.h5")
    assert facts["weights_of"] == "scan"
    kernel = np.asarray(published.load(tmp_path / "x.weights.h5")[0].heads.heads[0].kernel)
    _, heads = build.calibrated_clusters(opened(run), "scan")
    np.testing.assert_array_equal(kernel, np.asarray(heads.heads[0].kernel).astype(np.float16))


def correct(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Have a run shown as corrected, into two clusters; kernel and bias of the new head."""
    work = opened(run)
    width = build.new_backbone(work).feature_dim
    random = np.random.default_rng(0)
    kernel, bias = random.standard_normal((width, 2)).astype(np.float32), np.float32([0.5, -0.5])
    nothing = np.zeros(0, np.int64)
    told = {"said": 0, "none": 0, "unsure": 0, "seq": 1}
    head = Corrected(kernel, bias, (0, 3), "test", nothing, nothing, None, told)
    correcting.accept(work, head, {1: "bee"})
    return kernel, bias


def test_what_was_corrected_is_what_is_published(finished, tmp_path):
    run = copy(finished, tmp_path / "run")
    kernel, bias = correct(run)
    facts = published.save(opened(run), tmp_path / "x.weights.h5")
    assert (facts["weights_of"], facts["num_clusters"]) == ("corrected", 2)
    assert facts["cluster_names"] == ["", "bee"]
    report = json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))
    assert facts["scores"] == {k: report["corrected"][k] for k in ("acc", "nmi", "ari")}
    (head,) = published.load(tmp_path / "x.weights.h5")[0].heads.heads
    np.testing.assert_array_equal(np.asarray(head.kernel), kernel.astype(np.float16))
    np.testing.assert_array_equal(np.asarray(head.bias), bias)

    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")
    folder = porting.export_torch(opened(run))
    tensors = torch.load(folder / "corrected.pth.tar", weights_only=True)
    np.testing.assert_array_equal(tensors["cluster_head.0.weight"], kernel.T)
    np.testing.assert_array_equal(tensors["cluster_head.0.bias"], bias)
    trained = torch.load(folder / "selflabel.pth.tar", weights_only=True)
    assert trained["cluster_head.0.bias"].shape == (3,)
    shared = [name for name in tensors if name.startswith("backbone.")]
    assert all(torch.equal(tensors[name], trained[name]) for name in shared)
    corrected.remove(opened(run))
    porting.export_torch(opened(run))
    assert not (folder / "corrected.pth.tar").exists()


def test_another_suffix_and_weights_out_of_range_are_refused(finished, tmp_path):
    with pytest.raises(DataError, match=r"x.h5: expected a name that ends in .weights.h5"):
        published.save(opened(finished), tmp_path / "x.h5")
    run = copy(finished, tmp_path / "run")
    path = run / "selflabel" / "weights.npz"
    with np.load(path) as source:
        arrays = {k: source[k] for k in source.files}
    arrays["heads/0/kernel"][0, 0] = 7e7  # whatever temperature divides it
    np.savez(path, **arrays)
    record = dataclasses.replace(records.read(run, "selflabel"), files={})
    records.write(run, "selflabel", record)
    with pytest.raises(StageError, match="too large for float16"):
        published.save(opened(run), tmp_path / "x.weights.h5")
    assert not (tmp_path / "x.weights.h5").exists()


def another_model(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((2, 2), np.float32)


def lose_a_layer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        name = next(k for k, v in datasets(path).items() if v.ndim == 4)
        file[name].attrs.clear()
        del file[name]


def spoil(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        name = next(k for k, v in datasets(path).items() if v.ndim == 4)
        file[name][...] = np.nan


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda p: p.unlink(), "no weights published by scan_tf"),
        (lambda p: p.write_bytes(b"no HDF5"), "no weights published by scan_tf"),
        (another_model, "no weights published by scan_tf .*scripts/results.py weights"),
        (lambda p: edit(p, format=99), "expected format 1, got 99"),
        (lambda p: edit(p, num_clusters=4), "do not fit its network"),
        (lambda p: edit(p, model={"backbone": "resnet18", "width": 4}), "missing|do not fit"),
        (lambda p: edit(p, model={"backbone": "resnet10", "width": 8}), "do not fit its network"),
        (lambda p: edit(p, model={"bone": 1}), "do not fit its network"),
        (lose_a_layer, "missing or damaged|do not fit"),
        (spoil, "variables are missing or damaged"),
    ],
)
def test_foreign_and_damaged_files_are_refused(copied, damage, expected):
    damage(copied)
    with pytest.raises(DataError, match=expected):
        published.load(copied)


def test_images_that_do_not_fit_are_refused(finished, copied):
    with pytest.raises(MissingDataError):
        published.score(copied, data_path="/nowhere", progress=False)
    path = opened(finished).config.data.path
    facts = published.load(copied)[1]
    edit(copied, data=facts["data"] | {"image_size": 12})
    with pytest.raises(DataError, match="expected labelled images of 8 pixels, got 12 pixels"):
        published.score(copied, data_path=path, progress=False)
    assert sources.available()
