from __future__ import annotations

import dataclasses

import pytest
from tiny_runs import copy, opened, scan_tf

from scan_tf.errors import StageError
from scan_tf.evaluation.knn import knn_accuracy
from scan_tf.pipeline import build, evaluate
from scan_tf.pipeline.pretext import KnnMonitor
from scan_tf.storage import files
from scan_tf.storage.files import read_metrics


@pytest.mark.slow
def test_the_curve_ends_at_the_accuracy_of_the_report(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="pretext")
    assert scan_tf("pretext", "--run-dir", run, "pretext.knn_every=15") == 0
    rows = [r for r in read_metrics(run / "pretext" / "metrics.jsonl") if "knn_acc" in r]
    assert [r["epoch"] for r in rows] == [15, 20]
    work = opened(run, "pretext.knn_every=15")
    assert scan_tf("neighbors", "--run-dir", run, "pretext.knn_every=15") == 0
    embedded, _ = files.read_npz(run / "neighbors" / "features.npz")
    train, test = work.train_images, work.images("test")
    split = "train" if test is None else "test"
    images = test or train
    expected = knn_accuracy(
        embedded["train"],
        train.labels,
        embedded[split],
        images.labels,
        k=work.config.evaluate.knn_k,
        num_classes=3,
        leave_one_out=test is None,
    )
    assert rows[-1]["knn_acc"] == rows[-1]["knn_projection_k5"] == expected
    scores = evaluate.score(work, images, build.trained_pretext(work))["pretext"]["features"]
    assert rows[-1]["knn_backbone_k5"] == scores["backbone"]["knn_acc"]


@pytest.mark.slow
def test_it_does_not_change_the_training(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="pretext")
    assert scan_tf("pretext", "--run-dir", run, "pretext.knn_every=7") == 0
    ours, _ = files.read_npz(run / "pretext" / "weights.npz")
    theirs, _ = files.read_npz(finished / "pretext" / "weights.npz")
    assert ours.keys() == theirs.keys()
    assert all((ours[k] == theirs[k]).all() for k in ours)


def test_without_labels_it_is_refused(finished, tmp_path):
    work = opened(finished, "pretext.knn_every=1")
    images = dataclasses.replace(work.train_images, labels=None)
    work.images = lambda split: images
    with pytest.raises(StageError, match=r"pretext.knn_every: needs labels"):
        KnnMonitor(work, build.new_pretext(work))
