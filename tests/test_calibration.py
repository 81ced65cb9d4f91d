"""Calibration, coverage and pseudo-labels against plain loops and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scan_tf.errors import DataError
from scan_tf.evaluation import calibration

# Images as (confidence, whether right); the confidences lie on the edges of bins as well.
CONFIDENCES = st.one_of(st.integers(0, 15).map(lambda n: n / 15), st.floats(0, 1, width=32))
IMAGES = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=60)


def arrays(images) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = zip(*images, strict=True)
    return np.array(confidence), np.array(correct)


@settings(deadline=None)
@given(IMAGES)
def test_calibration_is_that_of_a_plain_loop(images):
    found = calibration.calibration(*arrays(images))
    edges = [number / 15 for number in range(16)]
    gap = 0.0
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        members = [i for i in images if low < i[0] <= high or (number == 0 and i[0] == 0)]
        row = found["bins"][number]
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert row["count"] == len(members)
        if not members:
            assert (row["confidence"], row["accuracy"]) == (None, None)
            continue
        confidence = math.fsum(c for c, _ in members) / len(members)
        accuracy = sum(right for _, right in members) / len(members)
        assert row["confidence"] == pytest.approx(confidence)
        assert row["accuracy"] == pytest.approx(accuracy)
        gap += len(members) / len(images) * abs(accuracy - confidence)
    assert found["ece"] == pytest.approx(gap, abs=1e-12)
    assert len(found["bins"]) == 15


def test_calibrated_predictions_have_no_error():
    # Of four images of confidence q/4, q are right.
    images = [(q / 4, i < q) for q in range(1, 5) for i in range(4)]
    assert calibration.calibration(*arrays(images))["ece"] == 0.0
    assert calibration.calibration(*arrays(images), bins=4)["ece"] == 0.0


def test_calibration_of_the_extremes():
    sure = np.ones(5)
    assert calibration.calibration(sure, np.zeros(5, bool))["ece"] == 1.0
    assert calibration.calibration(sure, np.ones(5, bool))["ece"] == 0.0
    # Too sure and not sure enough within one bin cancel out: that is how ECE is defined.
    both = calibration.calibration(np.array([0.25, 0.75]), np.array([True, False]), bins=1)
    assert both["ece"] == 0.0


def test_calibration_without_labels_counts_the_images():
    found = calibration.calibration(np.array([0.99, 0.5, 0.95]), None)
    assert found["ece"] is None
    assert [row["accuracy"] for row in found["bins"]] == [None] * 15
    assert found["bins"][-1]["count"] == 2
    assert found["bins"][-1]["confidence"] == pytest.approx(0.97)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60))
def test_coverage_is_that_of_a_plain_loop(seed, count):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.permutation(count) / count, rng.random(count) < 0.6
    found = calibration.coverage(confidence, correct)
    order = sorted(range(count), key=lambda i: -confidence[i])
    for percent, row in zip(range(10, 101, 10), found["coverage"], strict=True):
        kept = order[: math.ceil(count * percent / 100 - 1e-9)]
        assert row["coverage"] == percent / 100
        assert row["accuracy"] == pytest.approx(np.mean([correct[i] for i in kept]))
        assert row["threshold"] == min(confidence[i] for i in kept)
    risks = [np.mean([not correct[i] for i in order[:n]]) for n in range(1, count + 1)]
    assert found["aurc"] == pytest.approx(np.mean(risks), abs=1e-12)
    assert found["coverage"][-1]["accuracy"] == pytest.approx(correct.mean())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=6))
def test_images_of_equal_confidence_count_with_the_mean_over_all_orders(images):
    confidence, correct = arrays([(c / 3, right) for c, right in images])
    found = calibration.coverage(confidence, correct)
    areas = []
    for order in itertools.permutations(range(len(images))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            hits = np.cumsum(correct[list(order)]) / np.arange(1, len(order) + 1)
            areas.append((1 - hits).mean())
    assert found["aurc"] == pytest.approx(np.mean(areas), abs=1e-12)


def test_coverage_closed_forms():
    confidence = np.linspace(0.1, 1, 10)
    assert calibration.coverage(confidence, np.ones(10, bool))["aurc"] == 0.0
    assert calibration.coverage(confidence, np.zeros(10, bool))["aurc"] == 1.0
    found = calibration.coverage(confidence, confidence > 0.55)
    assert [row["accuracy"] for row in found["coverage"]] == pytest.approx(
        [1, 1, 1, 1, 1, 5 / 6, 5 / 7, 5 / 8, 5 / 9, 1 / 2]
    )
    assert found["aurc"] < calibration.coverage(confidence, confidence < 0.55)["aurc"]


def test_coverage_without_labels_gives_the_thresholds():
    found = calibration.coverage(np.linspace(0.1, 1, 10), None)
    assert found["aurc"] is None
    thresholds = [row["threshold"] for row in found["coverage"]]
    assert thresholds == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert {row["accuracy"] for row in found["coverage"]} == {None}


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 60), st.booleans())
def test_pseudo_labels_are_those_of_a_plain_loop(seed, num_clusters, count, labelled):
    rng = np.random.default_rng(seed)
    confidence, clusters = rng.random(count) ** 0.2, rng.integers(0, num_clusters, count)
    correct = rng.random(count) < 0.5 if labelled else None
    rows = calibration.pseudo_labels(confidence, clusters, correct, num_clusters=num_clusters)
    assert [row["threshold"] for row in rows] == [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    for row in rows:
        sure = [i for i in range(count) if confidence[i] > row["threshold"]]
        assert (row["count"], row["share"]) == (len(sure), len(sure) / count)
        if not sure:
            assert row["accuracy"] is row["smallest_cluster_share"] is None
            assert row["largest_cluster_share"] is None
            continue
        sizes = [sum(clusters[i] == c for i in sure) for c in range(num_clusters)]
        assert row["smallest_cluster_share"] == pytest.approx(min(sizes) / len(sure))
        assert row["largest_cluster_share"] == pytest.approx(max(sizes) / len(sure))
        assert (row["accuracy"] is None) == (not labelled)
        if labelled:
            assert row["accuracy"] == pytest.approx(np.mean([correct[i] for i in sure]))


def test_pseudo_labels_are_those_that_the_training_counts(rng):
    import tensorflow as tf

    from scan_tf.methods.losses import confident_cross_entropy

    # The logits of a confidence of exactly a threshold among them.
    sure = np.log(np.array(calibration.THRESHOLDS)) - np.log1p(-np.array(calibration.THRESHOLDS))
    first = np.concatenate([sure, rng.normal(scale=4, size=200)])
    logits = np.stack([first, np.zeros(len(first))], axis=1).astype(np.float32)
    probs = tf.nn.softmax(logits).numpy()
    rows = calibration.pseudo_labels(probs.max(axis=1), probs.argmax(axis=1), None, num_clusters=2)
    for row in rows:
        _, confident = confident_cross_entropy(logits, logits, row["threshold"])
        assert row["count"] == int(confident)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5, 1.1], [True, True], r"confidence: expected numbers \[N\] in 0..1"),
        ([0.5, float("nan")], [True, True], r"confidence: expected numbers \[N\] in 0..1"),
        ([[0.5]], [True], r"confidence: expected numbers \[N\] in 0..1"),
        ([], [], "at least one image, got none"),
        ([0.5], [True, False], "correct: 2 values for 1 confidences"),
    ],
)
def test_bad_confidences_are_refused(confidence, correct, message):
    confidence, correct = np.array(confidence), np.array(correct)
    with pytest.raises(DataError, match=message):
        calibration.calibration(confidence, correct)
    with pytest.raises(DataError, match=message):
        calibration.coverage(confidence, correct)
    with pytest.raises(DataError, match=message):
        calibration.pseudo_labels(confidence, np.zeros(1, int), correct, num_clusters=1)


def test_pseudo_labels_need_a_cluster_for_each_confidence():
    with pytest.raises(DataError, match="clusters: 2 for 3 confidences"):
        calibration.pseudo_labels(np.full(3, 0.5), np.zeros(2, int), None, num_clusters=1)


def test_the_temperature_is_the_one_that_the_answers_were_drawn_at(rng):
    logits = rng.normal(0, 3, (4000, 5))
    drawn = np.stack([rng.multinomial(1, p, 3) for p in softmax(logits / 2.5)]).argmax(axis=2)
    found = calibration.temperature(softmax(logits), drawn)
    assert found == pytest.approx(2.5, rel=0.05)
    cooled = calibration.tempered(softmax(logits), found)
    np.testing.assert_allclose(cooled, softmax(logits / found), rtol=1e-4, atol=1e-7)
    assert (cooled.argmax(axis=1) == logits.argmax(axis=1)).all()

    def error(probs):
        same = (drawn == probs.argmax(axis=1)[:, None]).ravel()
        return calibration.calibration(np.repeat(probs.max(axis=1), 3), same)["ece"]

    assert error(cooled) < 0.02 < 0.1 < error(softmax(logits))


def test_temperatures_of_the_extremes():
    sure = np.eye(3)[[0, 1, 2]]
    always, never = np.array([[0], [1], [2]]), np.array([[1], [2], [0]])
    assert calibration.tempered(sure, 1) is sure
    assert calibration.temperature(sure, always) < 20
    assert calibration.temperature(sure, never) == pytest.approx(20, rel=1e-3)
    assert np.isfinite(calibration.tempered(sure, 0.05)).all()
    with pytest.raises(DataError, match=r"near: expected clusters \[3,K\], got \[2, 1\]"):
        calibration.temperature(sure, always[:2])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
