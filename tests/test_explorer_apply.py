"""Corrections applied: what a classifier learns from them, and what of the run they reach."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from explorer_run import made, served
from tiny_runs import opened, scan_tf

from scan_tf.errors import StageError
from scan_tf.explorer import refit
from scan_tf.explorer.findings import halves
from scan_tf.features.rows import unit
from scan_tf.pipeline import corrected, names
from scan_tf.pipeline.corrected import NONE, Corrected
from scan_tf.pipeline.run_dir import Run

STORED = Path(__file__).parent / "data" / "run-format-1"
NOBODY = {"none": np.zeros(300, bool), "unsure": np.zeros(300, bool)}


@pytest.fixture
def clouds(rng):
    """300 features in three clouds, and a clustering that takes the last two for one."""
    kinds = np.arange(300) % 3
    features = (4 * rng.standard_normal((3, 16))[kinds] + rng.standard_normal((300, 16))) * 7 + 3
    found = np.full((300, 3), 0.02)
    found[np.arange(300), np.where(kinds == 2, 1, kinds)] = 0.96
    return features.astype(np.float32), found.astype(np.float32), kinds


def clusters(head, features):
    return (features @ head[0] + head[1]).argmax(axis=1)


def test_without_corrections_it_says_what_the_run_found(clouds):
    features, found, _ = clouds
    said = np.full(300, -1)
    head = refit.fit(features, found, said, **NOBODY)
    np.testing.assert_array_equal(clusters(head, features), found.argmax(axis=1))
    logits = features @ head[0] + head[1]
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    assert np.abs(probs - found).mean() < 0.02


def test_a_few_corrections_teach_the_whole_kind(clouds):
    features, found, kinds = clouds
    said = np.full(300, -1)
    said[np.flatnonzero(kinds == 2)[:4]] = 2
    said[np.flatnonzero(kinds == 1)[:2]] = 1
    head = refit.fit(features, found, said, **NOBODY)
    assert (clusters(head, features) == kinds).mean() > 0.97


def test_what_was_said_is_taught_whatever_its_neighbours_are(clouds):
    features, found, kinds = clouds
    said = np.full(300, -1)
    said[0] = 1
    targets, weights = refit.taught(features, found, said, **NOBODY)
    np.testing.assert_array_equal(targets[0], [0, 1, 0])
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert weights[0] > 4
    near = np.argsort(-unit(features) @ unit(features)[0])[1:4]
    far = np.flatnonzero(kinds != kinds[0])
    assert (targets[near, 1] > 0.3).all()
    np.testing.assert_allclose(targets[far], found[far], atol=0.02)


def test_images_of_none_of_the_kinds_are_left_out_and_quieten_those_like_them(clouds):
    features, found, _ = clouds
    none, unsure = np.zeros(300, bool), np.zeros(300, bool)
    none[:2], unsure[5] = True, True
    _, weights = refit.taught(features, found, np.full(300, -1), none=none, unsure=unsure)
    assert (weights[[0, 1, 5]] == 0).all()
    near = np.argsort(-unit(features) @ unit(features)[0])[2:5]
    assert (weights[near] < 0.8).all()
    # Nobody is said to be like what is not sure.
    assert weights[10:].max() == pytest.approx(1, abs=0.05)


def test_the_gradient_is_that_of_the_loss(clouds, monkeypatch):
    features, found, _ = clouds
    seen = {}

    def check(loss, start, **options):
        from scipy.optimize import approx_fprime, minimize

        at = np.linspace(-0.1, 0.1, len(start))
        seen["difference"] = np.abs(approx_fprime(at, lambda x: loss(x)[0], 1e-3) - loss(at)[1])
        return minimize(loss, start, **options)

    monkeypatch.setattr(refit, "minimize", check)
    refit.fit(features, found, np.full(300, -1), **NOBODY)
    assert seen["difference"].max() < 2e-3


def test_the_threshold_leaves_out_what_is_none(rng):
    confidence = rng.uniform(0.6, 1, 100).astype(np.float32)
    none = np.zeros(100, bool)
    none[:10] = True
    confidence[:10] = rng.uniform(0.3, 0.5, 10)
    below = refit.threshold(confidence, none, 0.2)
    assert confidence[:10].max() < below < 0.6
    # What is surer than nearly all others cannot be told by its confidence.
    confidence[:10] = 0.99
    assert refit.threshold(confidence, none, 0.2) == 0.2


def test_halves_of_two_clouds_are_those():
    rows = np.concatenate([np.eye(4)[[0] * 5], np.eye(4)[[1] * 3]]).astype(np.float32)
    assert halves(rows).tolist() == [False] * 5 + [True] * 3
    assert halves(np.ones((4, 3), np.float32)).sum() == 2


def test_a_proposal_tells_what_changes_and_changes_nothing(tmp_path):
    root = made(tmp_path, count=200, clusters=4, dim=16)
    with served(root) as (session, client):
        before = client.group()
        assert client.post("/api/apply", {"seq": 0})[0] == 422
        client.act(do="merge", groups=[3], into=0)
        state = client.act(do="move", rows=np.flatnonzero(before == 1)[:5].tolist(), to=2)
        shown = client.group()
        status, found = client.post("/api/apply", {"seq": state["seq"]})
        assert status == 200
        counts = {row["id"]: row for row in found["counts"]}
        assert set(counts) == {0, 1, 2}
        assert sum(row["after"] for row in found["counts"]) == 200
        for row in found["counts"]:
            assert row["before"] == (shown == row["id"]).sum()
            assert row["after"] == row["before"] + row["came"] - row["went"]
        assert found["changed"] == sum(row["came"] for row in found["counts"])
        assert all(shown[row["row"]] == row["from"] != row["to"] for row in found["rows"])
        assert (client.group() == shown).all()
        assert not (root / "corrected").exists()
        assert client.post("/api/apply", {"seq": 1})[0] == 409
        seq = client.act(do="undo")["seq"]
        status, why = client.post("/api/accept", {"seq": seq})
        assert (status, "apply them first" in why["error"]) == (422, True)
        assert client.post("/api/discard", {"seq": seq})[0] == 422
        assert session.journal.seq == 3


def head_of(run: Run, **changes) -> Corrected:
    values = {
        "kernel": np.zeros((8, 2), np.float32),
        "bias": np.array([1, 0], np.float32),
        "groups": (0, 4),
        "split": "train",
        "rows": np.array([1, 3]),
        "clusters": np.array([1, NONE]),
        "below": None,
        "facts": {"said": 1, "none": 1, "unsure": 0, "seq": 4},
    }
    return Corrected(**(values | changes))


def test_a_stored_classifier_holds_for_its_weights_alone(tmp_path, caplog):
    root = made(tmp_path)
    run = Run.open(root)
    assert corrected.load(run) is None
    corrected.store(run, head_of(run, below=(0.5, "so")))
    found = corrected.load(run)
    assert (found.groups, found.below, found.facts["seq"]) == ((0, 4), (0.5, "so"), 4)
    assert names.weights_of(run) == {"stage": "corrected", "sha256": found.digest}
    names.write(run, {1: "bee"})
    assert names.read(run) == {1: "bee"}
    # What was said of images counts; of others, what the classifier says.
    probs = found.probs(np.ones((5, 8), np.float32), said=True)
    assert probs[1].tolist() == [0, 1]
    assert probs[3].argmax() == 0
    assert probs[3].max() == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(probs[0], [np.e / (1 + np.e), 1 / (1 + np.e)], rtol=1e-6)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-6)

    weights = root / "scan" / "weights.npz"
    weights.write_bytes(weights.read_bytes() + b" ")
    with caplog.at_level(logging.WARNING):
        assert corrected.load(run, warn=True) is None
    assert "of other weights" in caplog.text
    assert "--discard" in caplog.text
    corrected.remove(run)
    assert not (root / "corrected").exists()


def test_a_classifier_of_another_journal_is_refused(tmp_path):
    root = made(tmp_path)
    corrected.store(Run.open(root), head_of(Run.open(root)))
    with pytest.raises(StageError, match="is of another journal"), served(root):
        pass


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def told(root: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The tables of an evaluation."""
    return rows_of(root / "eval" / "assignments.csv"), rows_of(root / "eval" / "mapping.csv")


@pytest.mark.slow
def test_what_is_accepted_is_everywhere_until_it_is_taken_back(tmp_path, monkeypatch):
    shutil.copytree(STORED, tmp_path / "stored")
    monkeypatch.chdir(tmp_path / "stored")
    root = Path("run")
    assert scan_tf("run", "--run-dir", root, "--redo", "evaluate") == 0
    before, report = told(root), json.loads((root / "eval" / "report.json").read_text())
    with served(root) as (_, client):
        shown = client.group()
        some = np.flatnonzero(shown == 0)[:2].tolist()
        client.act(do="name", group=1, name="one")
        client.act(do="merge", groups=[2], into=1)
        client.act(do="mark", rows=[int(np.flatnonzero(shown == 1)[0])], **{"as": "none"})
        state = client.act(do="make", rows=some, of=0, name="new <b>")
        _, found = client.post("/api/apply", {"seq": state["seq"]})
        status, state = client.post("/api/accept", {"seq": state["seq"]})
        assert status == 200, state
        assert (state["accepted"], state["pending"]) == (True, 0)
        accepted = client.group()
        for row in found["rows"]:
            assert accepted[row["row"]] == row["to"]
    run = opened(root)
    held = corrected.load(run)
    assert held.groups == (0, 1, 3)
    rows = rows_of(root / "eval" / "assignments.csv")
    assert [held.groups[int(row["cluster"])] for row in rows] == accepted.tolist()
    assert [rows[i]["name"] for i in some] == ["new <b>"] * 2
    now = json.loads((root / "eval" / "report.json").read_text())
    assert now["corrected"]["acc"] is not None
    assert (now["scan"], now["selflabel"]) == (report["scan"], report["selflabel"])
    page = (root / "eval" / "report.html").read_text(encoding="utf-8")
    assert "new &lt;b&gt;" in page

    # Whatever was done stays done, and predictions are those of the corrected classifier.
    assert scan_tf("run", "--run-dir", root) == 0
    assert scan_tf("predict", root, "images/test", "--output", tmp_path / "new.csv") == 0
    predicted = {row["path"]: row for row in rows_of(tmp_path / "new.csv")}
    assert {row["name"] for row in predicted.values()} <= {"", "one", "new <b>"}
    assert scan_tf("sort", root, "--to", tmp_path / "sorted", "--dry-run") == 0
    card = (root / "export" / "MODEL_CARD.md").read_text()
    assert "then corrected by hand: 2 images" in card

    # An evaluation made anew finds the same.
    after = told(root)
    assert scan_tf("evaluate", "--run-dir", root, "--redo", "evaluate") == 0
    assert told(root) == after

    assert scan_tf("explore", root, "--discard") == 0
    own = {"0": "", "1": "one", "2": ""}
    named = [row | {"name": own[row["cluster"]]} for row in before[0]]
    assert told(root) == (named, before[1])
    assert corrected.load(run) is None
    with served(root) as (_, client):
        state = client.get("/api/state")
        assert not state["accepted"]
        assert state["pending"] == 4
