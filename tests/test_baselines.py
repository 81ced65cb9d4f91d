"""The baselines of the tiny run, on either split, with stages missing, and without labels."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_runs import CLASSES, PER_CLASS, copy, opened

from scan_tf.config import from_dict
from scan_tf.errors import ConfigError
from scan_tf.features import neighbors
from scan_tf.pipeline import build, evaluate, feature_scores, sizes, stages

TRAIN = np.repeat(np.arange(len(CLASSES)), PER_CLASS["train"])


def score(work, split: str) -> dict:
    return evaluate.score(work, work.images(split), build.trained_pretext(work))


def test_scores_on_the_test_images(finished):
    scores = score(opened(finished), "test")["pretext"]
    mined = neighbors.load(finished / "neighbors" / "train.npz")
    for k in (1, 2, 3):
        same = TRAIN[mined.indices[:, 1 : k + 1]] == TRAIN[:, None]
        assert scores["neighbor_purity_by_k"][str(k)] == pytest.approx(same.mean())
    assert list(scores["neighbor_purity_by_k"]) == ["1", "2", "3", "5", "10", "20"]
    assert scores["neighbor_purity"] == scores["neighbor_purity_by_k"]["3"]
    assert scores["neighbor_purity_chance"] == pytest.approx(1 / 3)
    assert scores["neighbor_recall"] == mined.recall
    assert scores["linear_probe_acc"] > 0.8, "the classes differ in colour"
    assert scores["linear_probe_protocol"] == "fit on the training images"
    assert scores["note"] is None


def test_backbone_and_projection_are_scored_side_by_side(finished):
    by = score(opened(finished), "test")
    scores, found = by["pretext"], by["pretext"]["features"]
    assert [*found] == ["backbone", "projection"]
    # Of a width of 4 the last of four stages has 32; the head projects to 8.
    assert [found[name]["dim"] for name in found] == [32, 8]
    assert {found[name]["knn_k"] for name in found} == {5}
    # All 60 training images are fewer than the 100 and the 200 that others ask.
    assert {tuple(found[name]["knn_acc_by_k"]) for name in found} == {("5", "10", "60")}
    assert all(scores["knn_acc_by_k"]["5"] == scores["knn_acc"] for scores in found.values())
    assert scores["neighbor_features"] == "projection"
    assert scores["knn_acc"] == found["projection"]["knn_acc"]
    assert scores["linear_probe_acc"] == found["backbone"]["linear_probe_acc"]
    assert by["kmeans_features"]["nmi"] == found["projection"]["kmeans_nmi"]


def test_neighbours_are_mined_by_what_the_config_says(finished, tmp_path):
    auto = score(opened(finished), "test")["pretext"]
    run = copy(finished, tmp_path / "run", without="neighbors")
    work = opened(run, "neighbors.features=backbone")
    stages.run_stage(work, "neighbors")
    with np.load(run / "neighbors" / "features.npz") as file:
        assert file["train"].shape == (60, 32)
        np.testing.assert_allclose(np.linalg.norm(file["train"], axis=1), 1, rtol=1e-5)
    scores = score(work, "test")["pretext"]
    assert scores["neighbor_features"] == "backbone"
    assert scores["knn_acc"] == auto["features"]["backbone"]["knn_acc"]
    for name, found in auto["features"].items():
        again = scores["features"][name]
        assert again.pop("knn_acc_by_k") == pytest.approx(found.pop("knn_acc_by_k"))
        assert again == pytest.approx(found)


def test_a_projection_that_there_is_not_is_refused_before_the_first_stage():
    config = from_dict({"pretext": {"name": "rotnet"}, "neighbors": {"features": "projection"}})
    with pytest.raises(ConfigError, match="neighbors.features: 'projection', but the pretext 'rot"):
        sizes.check(config, 10_000, None)


def test_scores_on_the_training_images_leave_the_image_out(finished, monkeypatch):
    options = {}

    def knn(*_, **given):
        options.update(given)
        return dict.fromkeys(given["ks"], 0.5)

    monkeypatch.setattr(feature_scores, "knn_accuracies", knn)
    monkeypatch.setattr(evaluate.probes, "cross_validated_probe", lambda *_, **__: 0.25)
    scores = score(opened(finished), "train")["pretext"]
    assert options["leave_one_out"] is True
    assert (scores["knn_acc"], scores["linear_probe_acc"]) == (0.5, 0.25)
    assert "cross-validation" in scores["linear_probe_protocol"]


def test_the_linear_probe_can_be_left_out(finished, monkeypatch):
    monkeypatch.delattr(evaluate.probes, "linear_probe")
    scores = score(opened(finished, "evaluate.linear_probe=false"), "test")["pretext"]
    assert scores["linear_probe_acc"] is scores["linear_probe_protocol"] is None
    assert scores["knn_acc"] is not None


def test_features_that_were_left_behind_are_made_again(finished, tmp_path):
    expected = score(opened(finished), "test")
    run = copy(finished, tmp_path / "run")
    (run / "neighbors" / "features.npz").unlink()
    assert score(opened(run), "test") == expected
    with np.load(run / "neighbors" / "features.npz") as file:
        assert {"train", "test"} <= set(file.files)


def test_without_neighbors_the_purity_is_that_of_an_exact_search(finished, tmp_path):
    expected = score(opened(finished), "test")["pretext"]
    run = copy(finished, tmp_path / "run", without="neighbors")
    scores = score(opened(run), "test")["pretext"]
    assert scores["neighbor_purity"] is scores["neighbor_recall"] is None
    # The run mined exactly, so that both find the same neighbours.
    for k in ("1", "2", "5", "20"):
        purity = scores["neighbor_purity_by_k"][k]
        assert purity == pytest.approx(expected["neighbor_purity_by_k"][k])
    assert "3" not in scores["neighbor_purity_by_k"]
    assert scores["knn_acc"] == pytest.approx(expected["knn_acc"])
