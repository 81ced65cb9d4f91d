"""Probes of frozen features against plain loops, closed forms and degenerate cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from scan_tf.errors import DataError
from scan_tf.evaluation import probes

SCORES = ("acc", "nmi", "ari")


def blobs(rng, count, columns=8, spread=0.3):
    labels = rng.integers(0, 3, count)
    return (4 * np.eye(columns)[labels] + spread * rng.standard_normal((count, columns))), labels


def test_purity_leaves_the_image_itself_out():
    indices = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]])
    labels = np.array([0, 0, 1])
    np.testing.assert_allclose(probes.purity_by_k(indices, labels), [2 / 3, 1 / 3])


def test_a_linear_probe_separates_blobs_whatever_their_scale():
    rng = np.random.default_rng(8)
    (train, labels), (features, truth) = blobs(rng, 300), blobs(rng, 200)
    assert probes.linear_probe(train, labels, features, truth) == 1.0
    # Scaled, shifted, and with a column that never changes, as a dead unit's.
    change = np.float32([1e-3, 1, 1e3, 10, 1, 1, 1, 0]), np.float32([5, 0, -1e3, 0, 0, 0, 0, 7])
    one, two = (x * change[0] + change[1] for x in (train, features))
    assert probes.linear_probe(one, labels, two, truth) == 1.0
    assert probes.linear_probe(train, labels, features, (truth + 1) % 3) == 0.0


def test_a_linear_probe_is_linear(rng):
    points = rng.choice([-1.0, 1.0], (400, 2)) + 0.1 * rng.standard_normal((400, 2))
    labels = (points.prod(axis=1) > 0).astype(np.int64)
    assert 0.3 < probes.linear_probe(points, labels, points, labels) < 0.8
    product = np.column_stack([points, points.prod(axis=1)])
    assert probes.linear_probe(product, labels, product, labels) == 1.0


def test_the_cross_validated_probe_gives_no_training_accuracy(rng):
    # With more columns than images a linear classifier learns any labels by heart.
    features, labels = rng.standard_normal((200, 400)), rng.integers(0, 2, 200)
    assert probes.linear_probe(features, labels, features, labels) == 1.0
    assert probes.cross_validated_probe(features, labels, seed=0) < 0.65
    features, labels = blobs(rng, 203)
    assert probes.cross_validated_probe(features, labels, seed=0) == 1.0


def test_the_cross_validated_probe_leaves_each_image_out_once(rng, monkeypatch):
    seen = []

    def fit(features, labels, others):
        assert not set(features[:, 0]) & set(others[:, 0])
        assert len(features) + len(others) == 23
        seen.extend(others[:, 0])
        return np.where(others[:, 0] < 10, 1, 0)

    monkeypatch.setattr(probes, "_fit_and_predict", fit)
    features = np.arange(23.0)[:, None]
    assert probes.cross_validated_probe(features, np.ones(23, int), seed=3) == 10 / 23
    assert sorted(seen) == list(range(23))


def test_a_fit_that_ends_early_is_no_warning(rng, monkeypatch):
    monkeypatch.setattr(probes, "_PROBE_ITERATIONS", 1)
    features, labels = blobs(rng, 100)
    assert probes.cross_validated_probe(features, labels, seed=0) > 0.5
    assert probes.linear_probe(features, labels, features, labels) > 0.5


@pytest.mark.parametrize(("count", "expected"), [(1, None), (2, 1.0), (4, 1.0)])
def test_probes_of_a_single_class(count, expected):
    features, labels = np.eye(count, 3), np.full(count, 2)
    assert probes.cross_validated_probe(features, labels, seed=0) == expected
    assert probes.linear_probe(features, labels, features, labels) == 1.0


def purity_by_loop(features, labels, k, rows) -> float:
    shares = []
    for row in rows:
        near = np.argsort(-(features @ features[row]), kind="stable")
        near = near[near != row][:k]
        shares.append(np.mean(labels[near] == labels[row]))
    return float(np.mean(shares))


def test_purity_curve_by_a_plain_loop(rng, monkeypatch):
    features, labels = blobs(rng, 130, spread=3.0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    curve = probes.purity_curve(features, labels, None, seed=0)
    assert list(curve) == [1, 2, 5, 10, 20], "up to the mean size of a class, 43"
    for k, purity in curve.items():
        assert purity == pytest.approx(purity_by_loop(features, labels, k, range(130)))
    sample = np.random.default_rng(4).permutation(130)[:30]
    monkeypatch.setattr(probes, "_PURITY_SAMPLE", 30)
    curve = probes.purity_curve(features, labels, None, seed=4)
    for k, purity in curve.items():
        assert purity == pytest.approx(purity_by_loop(features, labels, k, sample))


def test_purity_curve_takes_the_mined_neighbours_where_there_are_any(rng):
    features, labels = blobs(rng, 120, spread=0.2)
    # Neighbours of the next image's class, that no search would find.
    mined = np.array([[i, *np.flatnonzero(labels == (labels[i] + 1) % 3)[:3]] for i in range(120)])
    curve = probes.purity_curve(features, labels, mined, seed=0)
    assert [curve[k] for k in (1, 2, 3)] == [0, 0, 0]
    assert curve[20] == 1.0
    assert list(curve) == [1, 2, 3, 5, 10, 20]


@pytest.mark.parametrize(("count", "classes", "ks"), [(2, 2, [1]), (3, 1, [1, 2]), (1, 1, [])])
def test_purity_curve_of_few_images(rng, count, classes, ks):
    features = rng.standard_normal((count, 4))
    assert list(probes.purity_curve(features, np.arange(count) % classes, None, seed=0)) == ks


def test_chance_is_the_purity_of_random_neighbours(rng):
    assert probes.chance_purity(np.repeat([0, 1, 2, 3], 5)) == 0.25
    labels = rng.choice(3, 20_000, p=[0.7, 0.2, 0.1])
    drawn = (labels == rng.permutation(labels)).mean()
    assert probes.chance_purity(labels) == pytest.approx(drawn, abs=0.01)


def test_lengths_must_agree():
    features, labels = np.eye(3), np.zeros(2, int)
    for call in (
        lambda: probes.linear_probe(features, labels, features, labels),
        lambda: probes.linear_probe(features, np.zeros(3, int), features, labels),
        lambda: probes.cross_validated_probe(features, labels, seed=0),
        lambda: probes.purity_curve(features, labels, None, seed=0),
        lambda: probes.purity_by_k(np.zeros((3, 2), int), labels),
    ):
        with pytest.raises(DataError, match="as many rows in each of these, got .*labels': 2"):
            call()


def test_kmeans_puts_each_image_to_the_nearest_center(rng):
    train, features = rng.random((300, 5)), rng.random((9000, 5))
    centers = [KMeans(4, n_init=1, random_state=s).fit(train.astype(np.float32)) for s in (0, 1)]
    found = probes._nearest(features, [model.cluster_centers_ for model in centers])
    for clusters, model in zip(found, centers, strict=True):
        distance = np.linalg.norm(features[:, None] - model.cluster_centers_[None], axis=2)
        two = np.sort(distance, axis=1)
        clear = two[:, 1] - two[:, 0] > 1e-5
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(clusters[clear], distance.argmin(axis=1)[clear])


def test_kmeans_finds_separate_blobs_and_reports_what_it_did():
    rng = np.random.default_rng(3)
    train, _ = blobs(rng, 300)
    features, labels = blobs(rng, 200)
    options = {"num_clusters": 6, "num_classes": 3, "restarts": 3, "seed": 5}
    scores = probes.kmeans_scores(train, features, labels, **options)
    assert scores == probes.kmeans_scores(train, features, labels, **options)
    assert scores["acc"] > 0.98
    assert scores["acc"] > scores["ari"] > 0
    assert (scores["restarts"], scores["fit_images"]) == (3, 300)
    assert scores["matching"] == "majority_vote"
    assert 5 <= scores["num_clusters_used"] <= 6


def test_kmeans_restarts_are_averaged():
    rng = np.random.default_rng(4)
    train, labels = blobs(rng, 200, spread=4.0)
    options = {"num_clusters": 3, "num_classes": 3}
    single = [
        probes.kmeans_scores(train, train, labels, restarts=1, seed=seed, **options)
        for seed in (7, 8, 9)
    ]
    # The rows are fitted in one order whatever the seed, as no subset is drawn.
    mean = probes.kmeans_scores(train, train, labels, restarts=3, seed=7, **options)
    values = [scores["nmi"] for scores in single]
    assert len(set(values)) > 1
    assert mean["nmi"] == pytest.approx(np.mean(values))
    assert mean["nmi_std"] == pytest.approx(np.std(values, ddof=1))
    assert single[0]["nmi_std"] == 0.0


def test_kmeans_of_long_rows_is_the_same(monkeypatch):
    rng = np.random.default_rng(9)
    train, labels = blobs(rng, 300, columns=40, spread=1.5)
    options = {"num_clusters": 5, "num_classes": 3, "restarts": 2, "seed": 1}
    short = probes.kmeans_scores(train, train, labels, **options)
    monkeypatch.setattr(probes, "_ELKAN_COLUMNS", 39)
    assert probes.kmeans_scores(train, train, labels, **options) == short


def test_kmeans_on_pixels_fits_a_subset_and_says_so(monkeypatch):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 500)
    images = (labels * 100).astype(np.uint8)[:, None, None, None] + rng.integers(
        0, 20, (500, 4, 4, 3), dtype=np.uint8
    )
    monkeypatch.setattr(probes, "KMEANS_FIT_VALUES", 48 * 100)
    options = {"num_clusters": 3, "num_classes": 3, "restarts": 2, "seed": 0}
    scores = probes.kmeans_scores(images, images, labels, **options)
    assert scores["fit_images"] == 100
    assert scores["acc"] == 1.0
    with pytest.raises(DataError, match="3 clusters got 2 images"):
        probes.kmeans_scores(images[:2], images, labels, **options)


def test_kmeans_without_labels_counts_clusters_only():
    features = np.random.default_rng(0).standard_normal((50, 4))
    how = {"num_clusters": 3, "num_classes": 0, "restarts": 2, "seed": 0}
    scores = probes.kmeans_scores(features, features, None, **how)
    assert scores["num_clusters_used"] == 3
    unknown = ("matching", *SCORES, *(f"{score}_std" for score in SCORES))
    assert all(scores[key] is None for key in unknown)


def test_thumbnails_are_means_of_what_is_larger():
    small = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    assert probes.thumbnails(small) is small
    large = small.repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_array_equal(probes.thumbnails(large), small)
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 200
    found = probes.thumbnails(np.repeat(checks[None, ..., None], 3, axis=3).astype(np.uint8))
    assert (found == 100).all()
