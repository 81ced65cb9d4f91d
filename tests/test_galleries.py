from __future__ import annotations

import numpy as np
import pytest

from scan_tf.evaluation import galleries
from scan_tf.evaluation.remarks import remarks


@pytest.mark.parametrize("count", [2, 5])
def test_runners_up(rng, count):
    probs = rng.dirichlet(np.ones(count), 200).astype(np.float32)
    second, lead = galleries.runners_up(probs)
    order = np.argsort(-probs, axis=1)
    np.testing.assert_array_equal(second, order[:, 1])
    rows = np.arange(200)
    np.testing.assert_allclose(lead, probs[rows, order[:, 0]] - probs[rows, order[:, 1]])


def test_a_tie_has_two_different_clusters():
    second, lead = galleries.runners_up(np.full((3, 4), 0.25, np.float32))
    assert (second != 0).all()
    assert (lead == 0).all()


def test_galleries_hold_what_they_are_called(rng):
    probs = rng.dirichlet(np.full(3, 0.7), 90).astype(np.float32)
    clusters, confidence = probs.argmax(axis=1), probs.max(axis=1)
    features = rng.standard_normal((90, 6)).astype(np.float32)
    second, lead = galleries.runners_up(probs)
    found = list(galleries.choose(clusters, confidence, num_clusters=3, per_kind=4,
                                  features=features, second=second, lead=lead))  # fmt: skip
    for cluster, gallery in enumerate(found):
        members = [row for row in range(90) if clusters[row] == cluster]
        by_confidence = sorted(members, key=lambda row: confidence[row])
        assert gallery.most.tolist() == by_confidence[::-1][:4]
        assert gallery.least.tolist() == by_confidence[:4]
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        middle = unit[members].mean(axis=0)
        nearest = sorted(members, key=lambda row: -unit[row] @ middle)
        assert gallery.typical.tolist() == nearest[:4]
        torn = [row for row in range(90) if cluster in np.argsort(-probs[row])[:2]]
        assert gallery.borderline.tolist() == sorted(torn, key=lambda row: lead[row])[:4]


def test_small_and_empty_clusters_show_an_image_once():
    clusters, confidence = np.array([0, 0, 2]), np.array([0.5, 0.9, 0.6])
    small, empty, one = galleries.choose(
        clusters, confidence, num_clusters=3, per_kind=4, features=np.eye(3)
    )
    assert small.rows.tolist() == [1, 0]
    assert empty.rows.tolist() == []
    assert one.rows.tolist() == [2]


SURE = np.full(300, 0.9)
SUPERVISED = {"name": "a network", "trained": "on labelled photos", "labels": True}


@pytest.mark.parametrize(
    ("clusters", "confidence", "options", "expected"),
    [
        (np.arange(300) % 3, SURE, {}, []),
        (np.zeros(300, int), SURE, {}, ["All images are in one cluster"]),
        (np.arange(300) % 2, SURE, {}, ["1 of 3 clusters has no images"]),
        (np.repeat([0, 1, 2], [280, 10, 10]), SURE, {}, ["very unequal size, 10 to 280"]),
        (np.arange(300) % 3, SURE / 2, {}, ["the mean confidence is 0.45"]),
        (np.arange(300) % 3, SURE, {"ece": 0.25}, ["off by 25 percentage points"]),
        (np.arange(30) % 3, SURE[:30], {}, ["only 10.0 images for each cluster"]),
        (np.arange(300) % 3, SURE, {"skipped": 1}, ["1 file could not be read"]),
        (np.arange(300) % 3, SURE, {"backbone": SUPERVISED}, ["no result of learning without"]),
        (np.arange(300) % 3, SURE, {"backbone": SUPERVISED | {"labels": False}}, []),
        (np.arange(300) % 3, SURE, {"exact_duplicates": 2}, ["2 images are the same, pixel by"]),
    ],
)
def test_remarks(clusters, confidence, options, expected):
    found = remarks(clusters, confidence, num_clusters=3, **options)
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence
