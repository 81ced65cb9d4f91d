"""What pictures say in their titles, against the numbers that they show."""

from __future__ import annotations

import numpy as np
import pytest

from scan_tf.evaluation import headlines


def test_confusion_tells_the_share_that_is_right_and_the_worst_mistake():
    matrix = np.array([[8, 2, 0], [0, 9, 1], [0, 0, 1000]])
    said = headlines.confusion(matrix, ["cat", "dog", "frog"])
    assert said == (
        "99.7% of 1,020 images are in the cluster of their class; most often mistaken: "
        "cat for dog (2)"
    )
    right = headlines.confusion(np.diag([1, 2]), ["a", "b"])
    assert right == "100.0% of 3 images are in the cluster of their class"
    assert headlines.confusion(np.zeros((2, 2), int), "ab") == "No image was put into a class"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([5, 7, 1200], "3 clusters of 5 to 1,200 images; none is empty"),
        ([5, 0, 7], "3 clusters of 5 to 7 images; 1 is empty"),
        ([9, 0, 0], "3 clusters of 9 images; 2 are empty"),
        ([0, 0], "No images in 2 clusters"),
        ([4], "1 cluster of 4 images; none is empty"),
    ],
)
def test_sizes(counts, said):
    assert headlines.sizes(np.array(counts)) == said


def test_confidence():
    values = np.array([0.2, 0.5, 0.995, 0.999])
    said = headlines.confidence(values)
    assert said == "Half of the images are surer than 0.747, 50% than 0.99"
    assert headlines.confidence(np.ones(9)).startswith("Half of the images are surer than 0.999,")
    assert headlines.confidence(np.empty(0)) == "No image was assigned"


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (0.9, "Self-label is 10 points surer than it is right"),
        (0.79, "Self-label is 1 point less sure than it is right"),
        (0.801, "Self-label is as sure as it is right (80%)"),
    ],
)
def test_reliability(confidence, said):
    bins = [
        {"count": 3, "confidence": confidence, "accuracy": 0.8},
        {"count": 0, "confidence": None, "accuracy": None},
    ]
    assert headlines.reliability("+ self-label", bins) == said


def test_coverage_with_and_without_labels():
    rows = [
        {"coverage": c / 100, "accuracy": 1 - c / 1000, "threshold": 1 - c / 200}
        for c in range(10, 101, 10)
    ]
    assert headlines.coverage(rows, known=True) == (
        "Without the least sure fifth 92.0% of the images are right, with it 90.0%"
    )
    assert headlines.coverage(rows, known=False) == (
        "The surest four fifths of the images are surer than 0.60"
    )


def test_purity_of_one_and_of_several_numbers_of_neighbours():
    assert headlines.purity({"1": 0.9, "50": 0.5}, 0.1) == (
        "The nearest neighbour is of the image's class in 90%, 50% of the 50 nearest (chance: 10%)"
    )
    assert headlines.purity({"5": 0.9}, 0.25) == (
        "90% of the 5 nearest neighbours are of the image's class (chance: 25%)"
    )


def test_the_map_and_the_curves():
    assert headlines.feature_map(1, None) == "Map of 1 image: near means similar to the network"
    assert headlines.feature_map(1000, 0.5).endswith("; 50.0% are in the cluster of their class")
    curves = {"pretext": [(1, 5.0), (2, 4.25)], "scan": []}
    assert headlines.curves(curves) == "Training curves; loss: pretext 5 to 4.25"
    assert headlines.curves({"scan": []}) == "Training curves"
