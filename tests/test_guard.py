"""The last stage goes back, or is not handed on, where it does harm; all of it without labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import copy, opened, scan_tf, weights

from scan_tf import config
from scan_tf.evaluation import alarms
from scan_tf.pipeline import stages
from scan_tf.storage import files
from scan_tf.storage.files import read_metrics

# Of three clusters, of which the last is to be empty in the end.
EVEN, UNEVEN = 1.09, 0.70


@pytest.fixture
def entropies(monkeypatch):
    """Entropies of the sizes that the epochs are said to have, from 0 on."""
    told: list[float] = []
    look = alarms.look

    def said(probs, near=None, **options):
        return look(probs, near, **options) | {"size_entropy": told.pop(0), "agreement": 0.8}

    monkeypatch.setattr(alarms, "look", said)
    return told


def guarded(finished, folder, *overrides: str):
    """A run whose last stage is still to be made, with three epochs and these settings."""
    run = copy(finished, folder, without="selflabel")
    work = opened(run, "selflabel.epochs=3", *overrides)
    (run / "config.yaml").write_text(config.dump(work.config), encoding="utf-8")
    return work


def report_of(run) -> dict:
    return json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))


def test_looking_changes_nothing(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="selflabel")
    stages.run_stage(opened(run, "selflabel.guard=none"), "selflabel")
    np.testing.assert_equal(weights(run, "selflabel"), weights(finished, "selflabel"))
    assert "size_entropy" not in read_metrics(run / "selflabel" / "metrics.jsonl")[-1]
    result = opened(finished).record("selflabel").result
    assert result["kept"] == "selflabel"
    assert "kept_epoch" not in result
    assert opened(finished).clusterings() == ["scan", "selflabel"]


@pytest.mark.usefixtures("eager")
def test_it_goes_back_to_the_last_epoch_that_did_no_harm(finished, tmp_path, entropies, capsys):
    work = guarded(finished, tmp_path / "one", "selflabel.guard=keep")
    entropies += [EVEN, EVEN, UNEVEN, UNEVEN]
    stages.run_stage(work, "selflabel")
    result = work.record("selflabel").result
    assert (result["kept"], result["kept_epoch"]) == ("selflabel", 1)
    assert "clusters are less even (entropy of the sizes 0.70, before 1.09" in result["why"]
    assert "epoch 1 is kept" in capsys.readouterr().out
    assert work.clusterings() == ["scan", "selflabel"]
    # The rate is constant, so that one epoch is the first of three.
    other = guarded(finished, tmp_path / "other", "selflabel.epochs=1", "selflabel.guard=none")
    stages.run_stage(other, "selflabel")
    np.testing.assert_equal(weights(work.root, "selflabel"), weights(other.root, "selflabel"))
    # After a kill, and on another number of threads, the second epoch came out otherwise: what was
    # stored before the kill is what is kept, and told.
    path, second = work.root / "selflabel" / "best.npz", {"epoch": 2, "size_entropy": EVEN}
    arrays, manifest = files.read_npz(path)
    assert manifest["extra"]["epoch"] == 1
    files.write_npz(path, arrays, {**manifest, "extra": second})
    for name in ("status/selflabel.json", "selflabel/weights.npz"):
        (work.root / name).unlink()
    entropies.append(EVEN)
    stages.run_stage(opened(work.root), "selflabel")
    result = work.record("selflabel").result
    assert (result["kept_epoch"], result["alarms_after"]) == (2, second)


@pytest.mark.usefixtures("eager")
def test_scan_is_what_the_run_has_to_show_where_every_epoch_did_harm(
    finished, tmp_path, entropies, capsys
):
    work = guarded(finished, tmp_path / "run", "selflabel.guard=keep")
    entropies += [EVEN, UNEVEN, UNEVEN, UNEVEN, EVEN, EVEN]
    stages.run_stage(work, "selflabel")
    assert "SCAN is kept" in capsys.readouterr().out
    assert work.record("selflabel").result["kept"] == "scan"
    assert work.clusterings() == ["selflabel", "scan"]
    for stage in ("evaluate", "export"):
        assert scan_tf(stage, "--run-dir", work.root) == 0
    said = "Shown is SCAN. Self-label: epoch 3 is worse"
    assert said in capsys.readouterr().out
    assert said in (work.root / "eval" / "report.html").read_text(encoding="utf-8")
    found, before = report_of(work.root), report_of(finished)
    assert (found["kept"], found["scan"]["acc"]) == ("scan", before["scan"]["acc"])
    assert found["selflabel"]["acc"] is not None
    with np.load(work.root / "eval" / "assignments.npz") as file:
        clusters = file["scan_cluster"]
    model = tf.saved_model.load(work.root / "export").signatures["serving_default"]
    exported = model(images=work.images("test").images)["cluster"]
    np.testing.assert_array_equal(exported, clusters)
    assert work.record("export").result["weights_of"] == "scan"


@pytest.mark.usefixtures("eager")
def test_what_is_only_warned_of_is_handed_on(finished, tmp_path, entropies, capsys):
    work = guarded(finished, tmp_path / "run")
    entropies += [EVEN, EVEN, EVEN, UNEVEN]
    stages.run_stage(work, "selflabel")
    assert "it is kept all the same" in capsys.readouterr().out
    result = work.record("selflabel").result
    assert result["kept"] == "selflabel"
    assert "epoch 3 is worse" in result["why"]
    assert not (work.root / "selflabel" / "best.npz").exists()


@pytest.mark.usefixtures("eager")
def test_an_unsure_clustering_is_refused_before_the_first_step(finished, tmp_path, capsys):
    threshold = "selflabel.threshold=0.9999999"
    work = guarded(finished, tmp_path / "run", "selflabel.guard=refuse", threshold)
    stages.run_stage(work, "selflabel")
    assert "clusters have no image that is more confident than 1" in capsys.readouterr().out
    record = work.record("selflabel")
    assert record.is_done
    assert record.result["why"].startswith("not begun: ")
    assert not (work.root / "selflabel" / "weights.npz").exists()
    assert work.clusterings() == ["scan"]
    assert scan_tf("evaluate", "--run-dir", work.root) == 0
    found = report_of(work.root)
    assert (found["kept"], found["selflabel"]) == ("scan", None)
    assert "not begun" in found["kept_because"]


@pytest.mark.usefixtures("eager")
def test_an_interrupted_stage_goes_on_with_what_it_saw(finished, tmp_path):
    """The alarms of the epochs before travel with the checkpoint."""
    work = guarded(finished, tmp_path / "run", "selflabel.guard=keep")
    stages.run_stage(work, "selflabel")
    before = dict(work.record("selflabel").result)
    kept = weights(work.root, "selflabel")
    for path in ("status/selflabel.json", "selflabel/weights.npz"):
        (work.root / path).unlink()
    stages.run_stage(opened(work.root), "selflabel")
    after = dict(work.record("selflabel").result)
    del before["peak_memory_mib"], after["peak_memory_mib"]
    assert after == before
    np.testing.assert_equal(weights(work.root, "selflabel"), kept)


def test_what_leaves_the_run_is_calibrated(finished):
    for stage in ("scan", "selflabel"):
        result = opened(finished).record(stage).result
        assert result["agreement_ece_calibrated"] <= result["agreement_ece"] + 0.02
        assert report_of(finished)[stage]["temperature"] == result["temperature"]
    work = opened(finished)
    model = tf.saved_model.load(finished / "export").signatures["serving_default"]
    exported = model(images=work.images("test").images)["probabilities"].numpy()
    with np.load(finished / "eval" / "assignments.npz") as file:
        confidence = file["selflabel_confidence"]
    np.testing.assert_allclose(exported.max(axis=1), confidence, atol=1e-4)
