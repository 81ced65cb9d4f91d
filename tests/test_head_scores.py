from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score, silhouette_score

from scan_tf.errors import DataError
from scan_tf.evaluation.head_scores import head_scores, pairwise_nmi


@pytest.fixture
def blobs(rng):
    """Three groups of 60 rows of unit length, their groups, and the 5 nearest of each."""
    groups = np.arange(180) % 3
    rows = np.eye(8)[groups] + 0.15 * rng.standard_normal((180, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return rows, groups, np.argsort(-rows @ rows.T, axis=1)[:, :6]


def test_the_true_groups_win_by_every_score(blobs, rng):
    rows, groups, near = blobs
    half_wrong = np.where(rng.random(180) < 0.5, rng.integers(0, 3, 180), groups)
    heads = np.stack([rng.integers(0, 3, 180), half_wrong, groups, (groups + 1) % 3])
    scores = head_scores(heads, rows, near, num_clusters=3)
    assert set(scores) == {"neighbors", "linear", "silhouette", "stability"}
    for name, values in scores.items():
        assert values[0] < values[1] < values[2], name
        # The numbers of the clusters do not matter.
        assert values[2] == pytest.approx(values[3], abs=1e-6), name
    assert scores["neighbors"][2] == scores["linear"][2] == 1


def test_silhouette_and_nmi_are_those_of_scikit_learn(blobs, rng):
    rows, groups, near = blobs
    heads = np.stack([np.where(rng.random(180) < q, 2, groups) for q in (0.1, 0.4, 0.7)])
    scores = head_scores(heads, rows, near, num_clusters=4)
    expected = [silhouette_score(rows, head) for head in heads]
    np.testing.assert_allclose(scores["silhouette"], expected, atol=1e-6)
    nmi = [[normalized_mutual_info_score(a, b) for b in heads] for a in heads]
    ours = pairwise_nmi(np.eye(4, dtype=np.float32)[heads])
    np.testing.assert_allclose(ours, nmi, atol=1e-6)
    expected = (np.sum(nmi, axis=1) - 1) / 2
    np.testing.assert_allclose(scores["stability"], expected, atol=1e-6)


def test_one_head_with_one_cluster_has_finite_scores(blobs):
    rows, groups, near = blobs
    scores = head_scores(np.zeros((1, 180), int), rows, near, num_clusters=3)
    assert {k: float(v[0]) for k, v in scores.items()} == {
        "neighbors": 1.0,
        "linear": 1.0,
        "silhouette": 0.0,
        "stability": 1.0,
    }


def test_bad_clusters_are_refused(blobs):
    rows, groups, near = blobs
    with pytest.raises(DataError, match=r"values in 0\.\.1, got 0\.\.2"):
        head_scores(groups[None], rows, near, num_clusters=2)
    with pytest.raises(DataError, match="'rows': 179"):
        head_scores(groups[None], rows[:-1], near, num_clusters=3)
