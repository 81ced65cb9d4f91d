"""Scores against the official code's numbers, scikit-learn, brute force and degenerate cases."""

from __future__ import annotations

import itertools
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scan_tf.errors import DataError
from scan_tf.evaluation import metrics
from scan_tf.evaluation.knn import knn_accuracies, knn_accuracy, knn_predict

ORACLE = np.load(pathlib.Path(__file__).parent / "data" / "evaluation_oracle.npz")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def oracle(case: int, name: str) -> np.ndarray:
    return ORACLE[f"eval{case}_{name}"]


@pytest.mark.parametrize("case", [0, 1, 2])
def test_scores_equal_the_official_ones(case):
    probs = softmax(oracle(case, "logits"))
    count = probs.shape[1]
    scores = metrics.cluster_scores(
        oracle(case, "targets"),
        probs.argmax(axis=1),
        num_clusters=count,
        num_classes=count,
        probs=probs,
    )
    for name in ("acc", "nmi", "ari", "top5"):
        assert scores[name] == pytest.approx(float(oracle(case, name)), abs=1e-12)
    assert list(enumerate(scores["mapping"])) == [tuple(p) for p in oracle(case, "match").tolist()]
    assert scores["matching"] == "hungarian"


@pytest.mark.parametrize("case", [0, 1, 2])
def test_selection_loss_equals_the_official_one(case):
    losses = metrics.selection_loss(softmax(oracle(case, "logits")), oracle(case, "neighbors"))
    names = ("selection_total", "selection_consistency", "selection_entropy")
    assert losses == pytest.approx([float(oracle(case, name)) for name in names], abs=1e-6)


def test_knn_predicts_as_the_official_code_does():
    bank, labels, queries = ORACLE["knn_bank"], ORACLE["knn_labels"], ORACLE["knn_queries"]
    predicted = knn_predict(bank, labels, queries, num_classes=10)
    np.testing.assert_array_equal(predicted, ORACLE["knn_predicted"])
    truth = predicted.copy()
    truth[:50] = (truth[:50] + 1) % 10
    assert knn_accuracy(bank, labels, queries, truth, num_classes=10) == 0.75


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_knn_with_several_numbers_of_neighbours_is_knn_with_each(leave_one_out):
    bank, labels = ORACLE["knn_bank"], ORACLE["knn_labels"]
    queries = bank if leave_one_out else ORACLE["knn_queries"]
    truth = np.random.default_rng(0).integers(0, 10, len(queries))
    options = {"num_classes": 10, "leave_one_out": leave_one_out}
    found = knn_accuracies(bank, labels, queries, truth, ks=(1, 10, 10**6), **options)
    assert [*found] == [1, 10, len(bank) - leave_one_out]
    for k, accuracy in found.items():
        assert accuracy == knn_accuracy(bank, labels, queries, truth, k=k, **options)


def random_clusters(rng, clusters, classes, count) -> tuple[np.ndarray, np.ndarray]:
    """Labels and clusters that agree in part, of uneven sizes; some may be empty."""
    labels = rng.choice(classes, count, p=rng.dirichlet(np.ones(classes)))
    guess = rng.choice(clusters, count, p=rng.dirichlet(np.ones(clusters)))
    return labels, np.where(rng.random(count) < rng.random(), labels % clusters, guess)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(0, 6), st.integers(1, 60))
def test_hungarian_finds_the_best_of_all_one_to_one_mappings(seed, clusters, extra, count):
    classes = min(7, clusters + extra)
    labels, found = random_clusters(np.random.default_rng(seed), clusters, classes, count)
    scores = metrics.cluster_scores(labels, found, num_clusters=clusters, num_classes=classes)
    mappings = np.array(list(itertools.permutations(range(classes), clusters)))
    assert scores["acc"] == (mappings[:, found] == labels).mean(axis=1).max()
    assert (np.array(scores["mapping"])[found] == labels).mean() == scores["acc"]
    assert len(set(scores["mapping"])) == clusters


def nmi_and_ari(labels: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """From the contingency table: Strehl and Ghosh (2002), Hubert and Arabie (1985)."""
    table = [
        [int(((labels == a) & (found == b)).sum()) for b in sorted(set(found.tolist()))]
        for a in sorted(set(labels.tolist()))
    ]
    count, rows = len(labels), [sum(row) for row in table]
    columns = [sum(c) for c in zip(*table, strict=True)]
    information = sum(
        n / count * math.log(n * count / (rows[i] * columns[j]))
        for i, row in enumerate(table)
        for j, n in enumerate(row)
        if n
    )
    entropies = [-sum(n / count * math.log(n / count) for n in part) for part in (rows, columns)]
    nmi = information / (sum(entropies) / 2) if any(entropies) else 1.0
    pairs = sum(math.comb(n, 2) for row in table for n in row)
    same_class, same_cluster = (sum(math.comb(n, 2) for n in part) for part in (rows, columns))
    expected = same_class * same_cluster / math.comb(count, 2) if count > 1 else 0
    most = (same_class + same_cluster) / 2
    ari = (pairs - expected) / (most - expected) if most != expected else 1.0
    return nmi, ari


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 6), st.integers(1, 80))
def test_names_of_clusters_do_not_matter(seed, clusters, classes, count):
    rng = np.random.default_rng(seed)
    labels, found = random_clusters(rng, clusters, classes, count)
    renamed = rng.permutation(clusters)[found]
    sizes = {"num_clusters": clusters, "num_classes": classes}
    one = metrics.cluster_scores(labels, found, **sizes)
    two = metrics.cluster_scores(labels, renamed, **sizes)
    for name in ("acc", "nmi", "ari", "num_clusters_used", "matching"):
        assert one[name] == pytest.approx(two[name], abs=1e-12)
    assert sorted(one["cluster_sizes"]) == sorted(two["cluster_sizes"])


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 6), st.integers(1, 80))
def test_nmi_and_ari_by_two_other_implementations(seed, clusters, classes, count):
    labels, found = random_clusters(np.random.default_rng(seed), clusters, classes, count)
    scores = metrics.cluster_scores(labels, found, num_clusters=clusters, num_classes=classes)
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(labels, found), abs=1e-12)
    assert scores["ari"] == pytest.approx(adjusted_rand_score(labels, found), abs=1e-12)
    assert (scores["nmi"], scores["ari"]) == pytest.approx(nmi_and_ari(labels, found), abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 8), st.integers(1, 60))
def test_clusters_that_stay_empty_change_no_score(seed, clusters, empty, count):
    rng = np.random.default_rng(seed)
    classes = clusters + empty
    labels, found = random_clusters(rng, clusters, classes, count)
    one = metrics.cluster_scores(labels, found, num_clusters=clusters, num_classes=classes)
    two = metrics.cluster_scores(labels, found, num_clusters=classes, num_classes=classes)
    for name in ("acc", "nmi", "ari", "num_clusters_used", "matching"):
        assert one[name] == two[name]
    assert two["cluster_sizes"] == one["cluster_sizes"] + [0] * empty


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 5), st.integers(1, 60))
def test_mapping_rows_by_a_plain_loop(seed, clusters, classes, count):
    labels, found = random_clusters(np.random.default_rng(seed), clusters, classes, count)
    mapping, _ = metrics.match(labels, found, clusters, classes)
    rows = metrics.mapping_rows(labels, found, mapping, num_clusters=clusters)
    for cluster, row in enumerate(rows):
        members = labels[found == cluster].tolist()
        share = members.count(mapping[cluster]) / len(members) if members else None
        assert row == (cluster, mapping[cluster], len(members), share)
    hits = sum(size * purity for _, _, size, purity in rows if size)
    scores = metrics.cluster_scores(labels, found, num_clusters=clusters, num_classes=classes)
    assert hits / count == pytest.approx(scores["acc"])


def test_mapping_rows_without_labels_give_the_sizes():
    rows = metrics.mapping_rows(None, np.array([2, 0, 2]), None, num_clusters=3)
    assert rows == [(0, None, 1, None), (1, None, 0, None), (2, None, 2, None)]
    with pytest.raises(DataError, match="clusters: expected values in 0..1, got 0..2"):
        metrics.mapping_rows(None, np.array([2, 0, 2]), None, num_clusters=2)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 4), st.integers(1, 80))
def test_majority_vote_gives_each_cluster_its_commonest_class(seed, classes, extra, count):
    rng = np.random.default_rng(seed)
    clusters = classes + extra
    labels, found = rng.integers(0, classes, count), rng.integers(0, clusters, count)
    scores = metrics.cluster_scores(
        labels, found, num_clusters=clusters, num_classes=classes, probs=np.eye(clusters)[found]
    )
    members = [labels[found == cluster].tolist() for cluster in range(clusters)]
    hits = sum(max(m.count(c) for c in range(classes)) for m in members)
    assert scores["matching"] == "majority_vote"
    assert scores["acc"] == pytest.approx(hits / count)
    assert [c is None for c in scores["mapping"]] == [not m for m in members]
    assert scores["top5"] is None


def test_perfect_clusters_two_per_class():
    labels = np.repeat([0, 1, 2], 4)
    scores = metrics.cluster_scores(labels, np.arange(12) // 2, num_clusters=6, num_classes=3)
    assert scores["acc"] == 1.0
    assert scores["mapping"] == [0, 0, 1, 1, 2, 2]


def test_all_images_in_one_of_ten_clusters():
    labels = np.repeat(np.arange(10), 5)
    probs = np.eye(10)[np.full(50, 3)]
    scores = metrics.cluster_scores(
        labels, probs.argmax(axis=1), num_clusters=10, num_classes=10, probs=probs
    )
    assert (scores["acc"], scores["nmi"], scores["ari"]) == (0.1, 0.0, 0.0)
    assert scores["num_clusters_used"] == 1
    assert scores["cluster_sizes"] == [0, 0, 0, 50, 0, 0, 0, 0, 0, 0]
    assert scores["mean_confidence"] == 1.0
    assert scores["mean_entropy"] == pytest.approx(0.0, abs=1e-5)


def test_two_classes_have_no_top5_and_a_swap_is_perfect():
    labels = np.array([0, 0, 1, 1])
    probs = softmax(np.array([[0.0, 1], [0, 2], [1, 0], [2, 0]]))
    scores = metrics.cluster_scores(
        labels, probs.argmax(axis=1), num_clusters=2, num_classes=2, probs=probs
    )
    assert (scores["acc"], scores["mapping"], scores["top5"]) == (1.0, [1, 0], None)
    assert scores["mean_entropy"] == pytest.approx(math.log(2))


def test_without_labels_no_score_that_needs_them():
    scores = metrics.cluster_scores(None, np.array([0, 0, 2]), num_clusters=4, num_classes=0)
    for name in ("acc", "nmi", "ari", "top5", "matching", "mapping"):
        assert scores[name] is None
    assert scores["cluster_sizes"] == [2, 0, 1, 0]
    assert scores["num_clusters_used"] == 2
    assert "mean_confidence" not in scores


@pytest.mark.parametrize(
    ("labels", "clusters", "message"),
    [
        ([0, 1], [0, 2], r"clusters: expected values in 0..1, got 0..2"),
        ([0, -1], [0, 1], r"labels: expected values in 0..1, got -1..0"),
        ([0, 1, 1], [0, 1], r"as many rows in each of these, got {'labels': 3, 'clusters': 2}"),
        ([], [], r"clusters: expected integers \[N\]"),
        ([0, 1], [0.0, 1.0], r"clusters: expected integers \[N\], got float64"),
    ],
)
def test_bad_ids_are_refused(labels, clusters, message):
    with pytest.raises(DataError, match=message):
        metrics.cluster_scores(np.array(labels), np.array(clusters), num_clusters=2, num_classes=2)


def test_confusion_counts_true_by_predicted():
    labels = np.array([0, 0, 1, 2, 2, 2])
    predicted = metrics.to_classes(np.array([0, 1, 1, 2, 3, 3]), [0, 1, 2, None])
    assert predicted.tolist() == [0, 1, 1, 2, -1, -1]
    expected = [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert metrics.confusion(labels, predicted, 3).tolist() == expected
    with pytest.raises(DataError, match="predicted_classes"):
        metrics.confusion(labels, predicted + 2, 3)


def test_selection_loss_by_a_plain_loop_over_blocks():
    rng = np.random.default_rng(0)
    probs = softmax(rng.standard_normal((1203, 4)))
    neighbors = rng.integers(0, 1203, (1203, 6))
    logs = [math.log(probs[i] @ probs[j]) for i in range(1203) for j in neighbors[i]]
    mean = probs.mean(axis=0)
    total, consistency, entropy = metrics.selection_loss(probs, neighbors)
    assert consistency == pytest.approx(-np.mean(logs))
    assert entropy == pytest.approx(-(mean * np.log(mean)).sum())
    assert total == consistency - entropy


def test_selection_loss_closed_forms():
    sure = np.eye(4, dtype=np.float32)
    own = np.arange(4)[:, None]
    assert metrics.selection_loss(sure, own) == pytest.approx((-math.log(4), 0, math.log(4)))
    # Disjoint predictions: the logarithm of 0 is clamped at -100.
    assert metrics.selection_loss(sure, (own + 1) % 4)[1] == 100.0


def knn_by_loop(bank, labels, queries, k, temperature, classes, own=None):
    predicted = []
    for row, query in enumerate(queries):
        similarity = bank @ query
        if own is not None:
            similarity[row] = -np.inf
        votes = np.zeros(classes)
        for near in np.argsort(-similarity)[:k]:
            votes[labels[near]] += math.exp(similarity[near] / temperature)
        predicted.append(votes.argmax())
    return predicted


def unit_rows(rng, count, columns):
    rows = rng.standard_normal((count, columns)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_knn_by_a_plain_loop_with_and_without_the_image_itself():
    rng = np.random.default_rng(1)
    bank, labels = unit_rows(rng, 620, 6), rng.integers(0, 5, 620)
    options = {"k": 9, "temperature": 0.2, "num_classes": 5}
    predicted = knn_predict(bank, labels, bank, leave_one_out=True, **options)
    assert predicted.tolist() == knn_by_loop(bank, labels, bank, 9, 0.2, 5, own=True)
    queries = unit_rows(rng, 510, 6)
    predicted = knn_predict(bank, labels, queries, **options)
    assert predicted.tolist() == knn_by_loop(bank, labels, queries, 9, 0.2, 5)


def test_knn_with_more_neighbours_asked_for_than_there_are():
    rng = np.random.default_rng(2)
    bank, labels = unit_rows(rng, 12, 4), rng.integers(0, 2, 12)
    predicted = knn_predict(bank, labels, bank, k=100, num_classes=2)
    assert predicted.tolist() == knn_by_loop(bank, labels, bank, 12, 0.1, 2)
    predicted = knn_predict(bank, labels, bank, num_classes=2, leave_one_out=True)
    assert predicted.tolist() == knn_by_loop(bank, labels, bank, 11, 0.1, 2, own=True)
    with pytest.raises(DataError, match=r"bank of 1 image\(s\) leaves no neighbour"):
        knn_predict(bank[:1], labels[:1], bank[:1], num_classes=2, leave_one_out=True)


def test_knn_of_images_that_equal_ones_push_out_of_their_own_list():
    bank, labels = np.ones((5, 1), np.float32), np.array([0, 0, 0, 0, 1])
    options = {"k": 2, "num_classes": 2, "leave_one_out": True}
    np.testing.assert_array_equal(knn_predict(bank, labels, bank, **options), [0] * 5)


def blobs(rng, count, columns=8, spread=0.3):
    labels = rng.integers(0, 3, count)
    return (4 * np.eye(columns)[labels] + spread * rng.standard_normal((count, columns))), labels


def test_prototype_is_the_central_one_of_the_most_confident():
    # Cluster 0: images 0-2 are its three most confident; 3 is nearer to the mean of all four but
    # not among them. Cluster 1 is empty, cluster 2 holds one image.
    probs = np.array([[0.9, 0, 0.1], [0.8, 0, 0.2], [0.95, 0, 0.05], [0.6, 0, 0.4], [0, 0.1, 0.9]])
    features = np.array([[0.0, 0], [1, 0], [5, 0], [2, 0], [9, 9]])
    assert metrics.prototypes(probs, features, per_cluster=3).tolist() == [1, -1, 4]
    assert metrics.prototypes(probs, features, per_cluster=4).tolist() == [3, -1, 4]


def test_what_can_be_said_without_labels():
    rng = np.random.default_rng(6)
    features, labels = blobs(rng, 90, spread=0.2)
    probs = 0.97 * np.eye(4)[labels] + 0.03 / 4
    probs[:30] = np.eye(4)[labels[:30]]
    said = metrics.without_labels(probs, features, seed=1, sample=50)
    assert said["cluster_sizes"] == np.bincount(labels, minlength=4).tolist()
    assert said["num_clusters_used"] == 3
    assert said["confident"] == pytest.approx(1 / 3)
    assert said["silhouette"] > 0.8
    assert said["size_entropy"] == pytest.approx(math.log(3), abs=0.05)
    shuffled = metrics.without_labels(probs[rng.permutation(90)], features)
    assert shuffled["silhouette"] < 0.1


def test_silhouette_of_one_cluster_is_unknown():
    said = metrics.without_labels(np.eye(3)[[1, 1, 1]], np.eye(3))
    assert said["silhouette"] is None
    assert said["size_entropy"] == pytest.approx(0.0, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 30))
def test_scores_stay_in_range_however_degenerate(seed, clusters, count):
    rng = np.random.default_rng(seed)
    probs = softmax(rng.standard_normal((count, clusters)))
    labels = np.zeros(count, np.int64)
    scores = metrics.cluster_scores(
        labels, probs.argmax(axis=1), num_clusters=clusters, num_classes=1, probs=probs
    )
    # With a single class every cluster is that class, one-to-one or by vote.
    assert scores["acc"] == 1.0
    assert 0 <= scores["nmi"] <= 1
    assert scores["ari"] <= 1
    assert 0 <= scores["mean_entropy"] <= math.log(clusters) + 1e-6


def test_importing_evaluate_imports_no_tensorflow():
    code = "import sys, scan_tf.evaluation.metrics; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
