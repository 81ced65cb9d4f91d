from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from itertools import permutations

import numpy as np
import pytest
from pages import Parsed
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from tiny_runs import CLASSES, PER_CLASS, copy, opened, scan_tf, snapshot

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import StageError
from scan_tf.evaluation import report
from scan_tf.evaluation.assignments import Clustering
from scan_tf.features import neighbors
from scan_tf.features.map2d import layout
from scan_tf.pipeline import build, evaluate, result_page, stages
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import labels

SCORES = ("acc", "nmi", "ari")
FEATURE_SCORES = ("knn_acc", "linear_probe_acc", "kmeans_acc")
CLUSTERED = ("scan", "selflabel", "kmeans_pixels", "kmeans_features")
PICTURES = {
    "cluster_sizes.png",
    "confidence.png",
    "coverage.png",
    "curves.png",
    "map.png",
    "prototypes.png",
}
LABELLED = {"confusion.png", "purity_vs_k.png", "reliability.png"}


class Unlabelled(Run):
    """A run whose images have no labels."""

    def images(self, split) -> ImageSet | None:
        images = super().images(split)
        return images and dataclasses.replace(images, labels=None, class_names=())


def read(folder) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def clustering(rng, count: int, clusters: int) -> Clustering:
    """Of networks that were never trained."""
    probs = rng.dirichlet(np.full(clusters, 0.2), count).astype(np.float32)
    features = rng.standard_normal((count, 6)).astype(np.float32)
    return Clustering("scan", "SCAN", probs, features, teaches=True)


def write(work: Run, found: Clustering, split: str = "test") -> dict:
    """What `report.write` writes of this clustering and the run's pretext."""
    images, folder = evaluate.images_of(work, split), evaluate.folder_of(work, split)
    scores = evaluate.score(work, images, build.trained_pretext(work))
    written = report.write(
        folder,
        images,
        [found],
        evaluate.facts(work, images, scores),
        config=work.config.evaluate,
        curves={},
        points=layout(found.features, 0, work.config.evaluate.map_points),
    )
    assert read(folder) == written
    return written


def table_of(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
    page = Parsed(finished / "eval" / "report.html")
    assert page.data["count"] == written["num_images"]
    sizes = written["selflabel"]["cluster_sizes"]
    assert np.bincount(page.array("cluster"), minlength=3).tolist() == sizes
    assert {"pretext", "neighbors", "SCAN", "self-label"} <= set(page.text_of("th"))
    for name in CLUSTERED:
        for score in SCORES:
            assert 0 <= written[name][score] <= 1 or (score == "ari" and written[name][score] > -1)
        assert 1 <= written[name]["num_clusters_used"] <= 3
    for score in ("knn_acc", "neighbor_purity"):
        assert 0 <= written["pretext"][score] <= 1
    assert written["wall_time_s"].keys() == {"pretext", "neighbors", "scan", "selflabel"}
    assert all(seconds > 0 for seconds in written["wall_time_s"].values())
    assert written["scan"]["epoch"] in range(1, 13)
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
    lines = report.table(written, labels()).splitlines()
    (header,) = [line for line in lines if line.startswith("pretext features")]
    assert " ".join(header.split()) == "pretext features kNN, K 5 linear probe k-means"
    for name, size in (("backbone", 32), ("projection", 8)):
        (line,) = [line for line in lines if line.startswith(f"{name} ({size})")]
        found = written["pretext"]["features"][name]
        shown = [f"{100 * found[score]:.1f}" for score in FEATURE_SCORES]
        assert line.split()[2:] == shown
    assert "15 images of the test split, seed 0" in lines[0]
    for row, name in (("SCAN", "scan"), ("+ self-label", "selflabel")):
        (line,) = [line for line in lines if line.startswith(row)]
        scores = [f"{100 * written[name][score]:.1f}" for score in SCORES]
        assert line.removeprefix(row).split()[:3] == scores


def test_every_picture_is_drawn_with_labels(run, rng):
    work = opened(run, "evaluate.pictures=true", "evaluate.split=train")
    written = write(work, clustering(rng, 60, 3), "train")
    assert (written["split"], written["num_images"]) == ("train", 60)
    assert written["selflabel"] is None
    sheets = {f"clusters/{cluster:03d}.png" for cluster in range(3)}
    assert pictures(run / "eval") == PICTURES | LABELLED | sheets


def test_without_labels_the_scores_are_null(run, rng):
    labelled = opened(run, "evaluate.pictures=true", "scan.num_clusters=4")
    found = clustering(rng, 15, 4)
    written = write(Unlabelled(labelled.config, run), found)
    assert [written["scan"][score] for score in SCORES] == [None] * 3
    assert 1 <= written["scan"]["num_clusters_used"] <= 4
    assert {written[f"kmeans_{name}"] for name in ("features", "pixels", "colors")} == {None}
    known = ("neighbor_recall", "neighbor_features")
    assert all((score is None) == (name not in known) for name, score in written["pretext"].items())
    scan = written["scan"]
    assert sum(scan["cluster_sizes"]) == 15
    assert scan["calibration"]["ece"] is scan["aurc"] is None
    rows = [*scan["calibration"]["bins"], *scan["coverage"], *scan["pseudo_labels"]]
    assert {row["accuracy"] for row in rows} == {None}
    assert [row["threshold"] for row in scan["coverage"]][-1] == found.confidence.min()
    text = report.table(written, labels())
    assert "no labels, so no accuracy" in text
    assert not {"ACC", "k-means", "kNN"} & set(text.split())
    rows = table_of(run / "eval" / "mapping.csv")
    assert [int(row["size"]) for row in rows] == scan["cluster_sizes"]
    assert {(row["class"], row["purity"]) for row in rows} == {("", "")}
    sheets = {f"clusters/{cluster:03d}.png" for cluster in range(4)}
    assert pictures(run / "eval") == PICTURES | sheets


def test_a_page_made_again_says_the_same_of_the_confidence(finished):
    work = opened(finished)
    assert build.temperature(work, "selflabel") != 1
    page = (finished / "eval" / "report.html").read_text(encoding="utf-8")
    assert "Confidence is calibrated" in page
    # As `scan-tf name` has it, from what is stored.
    stored = Clustering("selflabel", "", np.full((1, 3), 1 / 3, np.float32), np.zeros((1, 2)))
    assert result_page._is_calibrated(work, stored)
    assert not result_page._is_calibrated(work, dataclasses.replace(stored, name="corrected"))


def test_more_clusters_than_classes_are_matched_by_majority(run, rng):
    work = opened(run, "scan.num_clusters=7")
    found = clustering(rng, 15, 7)
    written = write(work, found)
    for name in ("scan", "kmeans_pixels", "kmeans_features"):
        assert written[name]["matching"] == "majority_vote"
        assert written[name]["acc"] >= 1 / 3
    assert len(written["scan"]["mapping"]) == 7
    labels, clusters = np.repeat(np.arange(3), 5), found.clusters
    rows = table_of(run / "eval" / "mapping.csv")
    assert [row["cluster"] for row in rows] == list("0123456")
    for row in rows:
        members = labels[clusters == int(row["cluster"])]
        assert int(row["size"]) == len(members)
        if len(members):
            share = np.bincount(members, minlength=3) / len(members)
            assert float(row["purity"]) == pytest.approx(share.max(), abs=1e-4)
            assert row["class"] == CLASSES[share.argmax()]
        else:
            assert (row["class"], row["purity"]) == ("", "")


def test_each_stage_has_a_mapping_table_and_scores_of_its_confidence(finished):
    written = read(finished / "eval")
    for stage, name in (("scan", "mapping-scan.csv"), ("selflabel", "mapping.csv")):
        rows, scores = table_of(finished / "eval" / name), written[stage]
        assert [row["class"] for row in rows] == [CLASSES[c] for c in scores["mapping"]]
        assert [int(row["size"]) for row in rows] == scores["cluster_sizes"]
        hits = sum(int(r["size"]) * float(r["purity"]) for r in rows if r["purity"])
        assert hits / 15 == pytest.approx(scores["acc"], abs=1e-3)
        assert 0 <= scores["calibration"]["ece"] <= 1
        assert sum(row["count"] for row in scores["calibration"]["bins"]) == 15
        assert scores["coverage"][-1]["accuracy"] == pytest.approx(scores["acc"])
        assert 0 <= scores["aurc"] <= 1
    assert written["scan"]["pseudo_labels"][-1]["share"] == written["scan"]["confident"]
    assert "pseudo_labels" not in written["selflabel"]


def test_another_split_is_scored_beside_the_stage(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    before = snapshot(run)
    stages.evaluate_split(opened(run), "train")
    assert f"report and pictures: {run / 'eval-train'}" in capsys.readouterr().out
    after = snapshot(run)
    assert {name for name in before if before[name] != after.get(name)} == set()
    assert {name.split("/")[0] for name in after if name not in before} == {"eval-train"}
    written, of_test = read(run / "eval-train"), read(run / "eval")
    assert "(5-fold)\ncluster heads: NMI " in report.table(written, labels())
    accuracy = of_test["pretext"]["linear_probe_acc"]
    assert f"{100 * accuracy:.1f}\ncluster heads: " in report.table(of_test, labels())
    assert (written["split"], written["num_images"]) == ("train", 60)
    assert written.keys() == of_test.keys()
    assert written["scan"].keys() == of_test["scan"].keys()
    # The same neighbours, whatever is evaluated.
    for name in ("neighbor_purity", "neighbor_purity_by_k", "neighbor_purity_chance"):
        assert written["pretext"][name] == of_test["pretext"][name]


def test_the_split_of_the_config_is_left_to_the_stage(run, capsys):
    stages.evaluate_split(opened(run), "test")
    assert read(run / "eval")["split"] == "test"
    assert opened(run).is_done("evaluate")
    written = snapshot(run / "eval")
    stages.evaluate_split(opened(run), "test")
    assert "done before" in capsys.readouterr().out
    assert snapshot(run / "eval") == written
    assert not (run / "eval-test").exists()


@pytest.mark.parametrize("split", ["pretext", "validation"])
def test_a_split_that_does_not_exist_names_the_others(finished, tmp_path, split):
    run = copy(finished, tmp_path / "run")
    before = snapshot(run)
    with pytest.raises(StageError, match=f"no split '{split}'. It has: train, test."):
        stages.evaluate_split(opened(run), split)
    assert snapshot(run) == before


@pytest.mark.parametrize("kept", ["scan", pytest.param("selflabel", marks=pytest.mark.slow)])
def test_a_clustering_from_elsewhere_is_scored_alone(finished, tmp_path, capsys, kept):
    run = copy(finished, tmp_path / "run", without="evaluate")
    for stage in {"pretext", "neighbors", "scan", "selflabel"} - {kept}:
        shutil.rmtree(run / stage)
        (run / "status" / f"{stage}.json").unlink()
    for part in ("metrics.jsonl", "best.json"):
        (run / kept / part).unlink(missing_ok=True)
    assert scan_tf("evaluate", "--run-dir", run, "evaluate.pictures=true") == 0
    written, before = read(run / "eval"), read(finished / "eval")
    assert written[kept] == before[kept]
    assert written["kmeans_pixels"] == before["kmeans_pixels"]
    assert written["kmeans_features"] is None
    assert written["pretext"].pop("note") == "no pretext in this run"
    assert set(written["pretext"].values()) == {None}
    assert [stage for stage in ("scan", "selflabel") if written[stage]] == [kept]
    assert "pretext: no pretext in this run" in capsys.readouterr().out
    assert (run / "eval" / "mapping.csv").exists()
    sheets = {f"clusters/{cluster:03d}.png" for cluster in range(3)}
    assert pictures(run / "eval") == (PICTURES | LABELLED | sheets) - {"purity_vs_k.png"}


def test_a_report_that_is_not_there_names_its_command(run):
    with pytest.raises(StageError, match=f"scan-tf evaluate --run-dir {run}"):
        evaluate.read_report(opened(run))
