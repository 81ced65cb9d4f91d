from __future__ import annotations

import dataclasses
import json
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from tiny_runs import CLASSES, PER_CLASS, copy, opened

from scan_tf import evaluate, neighbors, report
from scan_tf.data import ImageSet
from scan_tf.errors import StageError
from scan_tf.runs import Run

SCORES = ("acc", "nmi", "ari")
CLUSTERED = ("scan", "selflabel", "kmeans_pixels", "kmeans_features")
PICTURES = {"cluster_sizes.png", "confidence.png", "prototypes.png", "curves.png", "map.png"}


class Unlabelled(Run):
    """A run whose images have no labels."""

    def images(self, split) -> ImageSet | None:
        images = super().images(split)
        return images and dataclasses.replace(images, labels=None, class_names=())


def read(folder) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def predictions(rng, count: int, clusters: int) -> dict[str, report.Prediction]:
    """Of networks that were never trained."""
    probs = rng.dirichlet(np.full(clusters, 0.2), count).astype(np.float32)
    return {"scan": (probs, rng.standard_normal((count, 6)).astype(np.float32))}


def pictures(folder) -> set[str]:
    for path in folder.rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


@pytest.fixture
def run(finished, tmp_path):
    return copy(finished, tmp_path / "run", without="evaluate")


def test_the_report_has_what_is_promised(finished):
    written = read(finished / "eval")
    assert written["split"] == "test"
    assert written["num_images"] == PER_CLASS["test"] * len(CLASSES)
    assert written["seed"] == 0
    assert written["skipped_files"] == []
    for name in CLUSTERED:
        for score in SCORES:
            assert 0 <= written[name][score] <= 1 or (score == "ari" and written[name][score] > -1)
        assert 1 <= written[name]["num_clusters_used"] <= 3
    for score in ("knn_acc", "neighbor_purity"):
        assert 0 <= written["pretext"][score] <= 1
    assert written["wall_time_s"].keys() == {"pretext", "neighbors", "scan", "selflabel"}
    assert all(seconds > 0 for seconds in written["wall_time_s"].values())
    assert written["scan"]["epoch"] in range(1, 21)
    assert written["scan"]["head"] in (0, 1)


def test_the_scores_are_those_of_the_assignments(finished):
    written = read(finished / "eval")
    # The images are sorted by path, so by class.
    labels = np.repeat(np.arange(len(CLASSES)), PER_CLASS["test"])
    with np.load(finished / "eval" / "assignments.npz") as file:
        for stage in ("scan", "selflabel"):
            clusters, confidence = file[f"{stage}_cluster"], file[f"{stage}_confidence"]
            hits = [(np.array(p)[clusters] == labels).mean() for p in permutations(range(3))]
            scores = written[stage]
            assert scores["acc"] == pytest.approx(max(hits))
            assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
            assert scores["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
            assert scores["cluster_sizes"] == np.bincount(clusters, minlength=3).tolist()
            assert scores["mean_confidence"] == pytest.approx(confidence.mean())


def test_pretext_scores_are_those_of_the_stored_neighbors(finished):
    mined = neighbors.load(finished / "neighbors" / "train.npz")
    labels = np.repeat(np.arange(len(CLASSES)), PER_CLASS["train"])
    assert mined.indices.dtype == np.int32
    assert mined.indices.shape == (len(labels), 4)
    same = labels[mined.indices[:, 1:]] == labels[:, None]
    assert read(finished / "eval")["pretext"]["neighbor_purity"] == pytest.approx(same.mean())


def test_the_table_shows_the_report(finished):
    written = read(finished / "eval")
    lines = report.table(written).splitlines()
    assert "15 images of the test split, seed 0" in lines[0]
    for row, name in (("SCAN", "scan"), ("+ self-label", "selflabel")):
        (line,) = [line for line in lines if line.startswith(row)]
        scores = [f"{100 * written[name][score]:.1f}" for score in SCORES]
        assert line.removeprefix(row).split()[:3] == scores


def test_every_picture_is_drawn_with_labels(run, rng):
    work = opened(run, "evaluate.pictures=true", "evaluate.split=train")
    report.write(work, predictions(rng, 60, 3))
    written = read(run / "eval")
    assert (written["split"], written["num_images"]) == ("train", 60)
    assert written["selflabel"] is None
    sheets = {f"clusters/{cluster:03d}.png" for cluster in range(3)}
    assert pictures(run / "eval") == PICTURES | sheets | {"confusion.png"}


def test_without_labels_the_scores_are_null(run, rng, capsys):
    labelled = opened(run, "evaluate.pictures=true", "scan.num_clusters=4")
    report.write(Unlabelled(labelled.config, run), predictions(rng, 15, 4))
    written = read(run / "eval")
    for name in ("scan", "kmeans_pixels", "kmeans_features"):
        assert [written[name][score] for score in SCORES] == [None] * 3
        assert 1 <= written[name]["num_clusters_used"] <= 4
    assert written["pretext"]["knn_acc"] is None
    assert written["pretext"]["neighbor_purity"] is None
    assert sum(written["scan"]["cluster_sizes"]) == 15
    assert "no labels, so no accuracy" in capsys.readouterr().out
    sheets = {f"clusters/{cluster:03d}.png" for cluster in range(4)}
    assert pictures(run / "eval") == PICTURES | sheets


def test_more_clusters_than_classes_are_matched_by_majority(run, rng):
    work = opened(run, "scan.num_clusters=7")
    report.write(work, predictions(rng, 15, 7))
    written = read(run / "eval")
    for name in ("scan", "kmeans_pixels", "kmeans_features"):
        assert written[name]["matching"] == "majority_vote"
        assert written[name]["acc"] >= 1 / 3
    assert len(written["scan"]["mapping"]) == 7


def test_kmeans_without_labels_counts_clusters_only():
    features = np.random.default_rng(0).standard_normal((50, 4))
    how = {"num_clusters": 3, "num_classes": 0, "restarts": 2, "seed": 0}
    scores = evaluate.kmeans_scores(features, features, None, **how)
    assert scores["num_clusters_used"] == 3
    unknown = ("matching", *SCORES, *(f"{score}_std" for score in SCORES))
    assert all(scores[key] is None for key in unknown)


def test_a_report_that_is_not_there_names_its_command(run):
    with pytest.raises(StageError, match=f"scan-tf evaluate --run-dir {run}"):
        report.read(opened(run))
