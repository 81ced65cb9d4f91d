from __future__ import annotations

import csv

import numpy as np
import pytest

from scan_tf.errors import DataError
from scan_tf.evaluation import abstention
from scan_tf.evaluation.assignments import Assignment
from scan_tf.evaluation.calibration import coverage
from scan_tf.features import outliers


def distance(bank, row, skip=None):
    """One minus the mean of the five largest cosines, one by one."""
    cosines = sorted(
        float(row @ other) / float(np.linalg.norm(row) * np.linalg.norm(other))
        for number, other in enumerate(bank)
        if number != skip
    )
    return 1 - np.mean(cosines[-5:])


def test_distances_are_those_of_a_loop(rng):
    bank, new = rng.normal(size=(40, 6)), rng.normal(size=(11, 6))
    found = outliers.reference(bank)
    np.testing.assert_allclose(np.linalg.norm(found.bank, axis=1), 1, rtol=1e-6)
    expected = [distance(bank, row) for row in new]
    np.testing.assert_allclose(outliers.distances(found.bank, new), expected, rtol=1e-5)
    own = np.array([3, -1])
    seen = outliers.distances(found.bank, bank[[3, 7]], own=own)
    expected = [distance(bank, bank[3], skip=3), distance(bank, bank[7])]
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    themselves = np.array([distance(bank, row, skip=n) for n, row in enumerate(bank)])
    assert found.far == pytest.approx(outliers.fence(themselves), rel=1e-5)


def naive_medcouple(values) -> float:
    """By the definition, a pair at a time; no two values are equal to the median."""
    middle = np.median(values)
    pairs = [(a, b) for a in values for b in values if a < middle < b]
    return float(np.median([((b - middle) - (middle - a)) / (b - a) for a, b in pairs]))


def test_the_medcouple_is_that_of_all_pairs(rng):
    for values in (rng.normal(size=80), rng.lognormal(size=80), -rng.exponential(size=40)):
        assert outliers.medcouple(values) == pytest.approx(naive_medcouple(values), abs=1e-12)
    assert outliers.medcouple(np.arange(9.0)) == 0
    assert outliers.medcouple(np.ones(5)) == 0
    assert outliers.medcouple(np.array([0.0, 1, 2, 4, 8])) == pytest.approx(1 / 3)


def test_hardly_any_of_a_skewed_distribution_is_beyond_the_fence(rng):
    for values in (rng.normal(size=4000), rng.lognormal(size=4000), rng.exponential(size=4000)):
        assert (values > outliers.fence(values)).mean() < 0.005
        assert outliers.fence(values) < 40 * np.median(np.abs(values))
    skewed = rng.lognormal(size=4000)
    low, high = np.percentile(skewed, (25, 75))
    assert (skewed > high + 3 * (high - low)).mean() > 0.02  # of the plain one
    assert outliers.fence(2 * skewed) == pytest.approx(2 * outliers.fence(skewed))


def test_only_what_is_unlike_all_others_is_far(rng):
    kinds = rng.normal(size=(4, 16)) * 3
    known = np.concatenate([kind + rng.normal(size=(200, 16)) * 0.3 for kind in kinds])
    found = outliers.reference(known)
    alike = kinds[1] + rng.normal(size=(100, 16)) * 0.3
    strange = rng.normal(size=(100, 16)) * 3
    assert (outliers.distances(found.bank, alike) > found.far).mean() < 0.02
    assert (outliers.distances(found.bank, strange) > found.far).mean() > 0.9


def test_the_bank_is_a_sample(rng):
    assert outliers.sample(10, 0).tolist() == list(range(10))
    rows = outliers.sample(50_000, 3)
    assert len(set(rows.tolist())) == outliers.BANK
    assert (np.diff(rows) > 0).all()
    assert (rows == outliers.sample(50_000, 3)).all()


def test_bad_features_are_refused():
    with pytest.raises(DataError, match="at least 3 rows to compare with, got 2"):
        outliers.reference(np.ones((2, 4)))
    with pytest.raises(DataError, match=r"finite \[N,D\] array, got \[3, 4\]"):
        outliers.reference(np.full((3, 4), np.nan))
    zeros = outliers.reference(np.zeros((9, 4)))
    assert outliers.distances(zeros.bank, np.ones((1, 4))).tolist() == [1.0]


@pytest.mark.parametrize(
    ("confidence", "below", "how"),
    [
        (np.linspace(0.01, 1, 100), 0.11, "90 % of the images are at least so sure"),
        (np.linspace(0.95, 1, 100), 0.9, "at least 90 % of the images are surer than 0.9"),
    ],
)
def test_the_threshold_comes_from_the_coverage_curve(confidence, below, how, rng):
    confidence = rng.permutation(confidence)
    found = abstention.threshold(coverage(confidence, None)["coverage"], None)
    assert found == (pytest.approx(below), how)
    with_labels = coverage(confidence, rng.random(100) < 0.5)["coverage"]
    assert abstention.threshold(with_labels, None) == found
    assert (confidence < found[0]).mean() <= 0.1
    assert abstention.threshold(with_labels, 0.3) == (0.3, "as set")


def test_reasons():
    confidence, distance = np.array([0.9, 0.2, 0.9, 0.2]), np.array([0.1, 0.1, 0.8, 0.8])
    how = {"below": 0.5, "far": 0.5}
    found = abstention.reasons(confidence, distance, **how)
    assert found == ["", "unsure", "unlike", "unlike"]
    assert abstention.reasons(confidence, None, **how) == ["", "unsure", "", "unsure"]
    nothing = abstention.reasons(confidence, distance, below=None, far=None)
    assert nothing == ["", "", "", ""]
    # A threshold that was read from float32 confidences leaves their owner in.
    third = np.array([1 / 3], np.float32)
    assert abstention.reasons(third, None, below=float(third[0]), far=None) == [""]
    correct = np.array([True, False, False, False])
    assert abstention.summary(confidence, distance, correct, how="x", **how) == {
        "below": 0.5,
        "how": "x",
        "far": 0.5,
        "unsure": 1,
        "unlike": 2,
        "kept": 0.25,
        "accuracy": 1.0,
    }


def test_outliers_are_listed_the_farthest_first(tmp_path):
    rows = [Assignment(f"{n}\udcff.png", n, "cat", 0.5) for n in range(3)]
    abstention.write_outliers(tmp_path, rows, np.array([0.6, 0.1, 0.7]), 0.5)
    with open(tmp_path / "outliers.csv", newline="", errors="surrogateescape") as file:
        found = list(csv.DictReader(file))
    assert [row["path"] for row in found] == ["2\udcff.png", "0\udcff.png"]
    assert found[0]["distance"] == "0.700000"
