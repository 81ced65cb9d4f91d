"""The number of clusters is told without labels, with its uncertainty, and in words."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from scan_tf.errors import ConfigError, DataError
from scan_tf.evaluation import num_clusters, number_section
from scan_tf.evaluation.num_clusters import Curve, Estimate, estimate


def mixture(rng, sizes, dim=12, apart=4.0):
    """Rows float32 of normally distributed groups of these sizes, in any order."""
    centers = rng.standard_normal((len(sizes), dim)) * apart
    rows = np.concatenate(
        [c + rng.standard_normal((n, dim)) for c, n in zip(centers, sizes, strict=True)]
    )
    return rng.permutation(rows).astype(np.float32)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two repetitions say as much of groups that lie apart as four."""
    monkeypatch.setattr(num_clusters, "_REPEATS", 2)
    monkeypatch.setattr(num_clusters, "_GROUPLESS", 1)


@pytest.mark.parametrize("sizes", [(50,) * 3, (40,) * 7, (110, 60, 40, 30)])
def test_groups_that_lie_apart_are_counted(rng, sizes):
    found = estimate(mixture(rng, sizes), high=10)
    assert abs(found.num_clusters - len(sizes)) <= 0.2 * len(sizes)
    assert found.low <= found.num_clusters <= found.high
    assert found.groups
    assert found.numbers == tuple(range(2, 11))
    assert set(found.said) == {*found.curves, "parts of the graph"}
    assert all(len(c.scores) == len(c.errors) == 9 for c in found.curves.values())
    assert sum(found.sizes) == pytest.approx(sum(sizes), abs=5)


def test_where_there_are_no_groups_it_says_so(rng):
    found = estimate(rng.standard_normal((200, 12)), high=6)
    assert not found.groups
    assert "there may be one kind only" in found.sentence


def test_the_same_seed_gives_the_same_answer_wherever_the_features_lie(rng):
    rows = mixture(rng, (40, 40, 40, 40))
    found = estimate(rows, high=5, seed=3)
    assert estimate(rows, high=5, seed=3) == found
    assert estimate(rows, high=5, seed=4).curves != found.curves
    wider = estimate(rows, high=6, seed=3)
    assert wider.curves["silhouette"].scores[:4] == found.curves["silhouette"].scores
    assert estimate(7 * rows + 100, high=5, seed=3).num_clusters == 4


def test_only_numbers_that_have_enough_images_are_looked_at(rng):
    rows = mixture(rng, (20, 20, 20))
    assert estimate(rows, low=3, high=80).numbers == (3, 4, 5, 6)


def test_large_numbers_are_tried_in_growing_steps():
    numbers = num_clusters._numbers(2, 80)
    assert numbers[:11] == list(range(2, 13))
    assert numbers[-1] == 80
    assert all(1 < b / a <= 1.25 for a, b in itertools.pairwise(numbers[11:]))
    assert num_clusters._numbers(5, 5) == [5]


def test_a_part_of_many_images_is_looked_at(rng, monkeypatch):
    monkeypatch.setattr(num_clusters, "_SAMPLE", 120)
    found = estimate(mixture(rng, (100, 100, 100)), high=5)
    assert (found.num_clusters, found.num_images) == (3, 300)
    assert sum(found.sizes) == pytest.approx(300, abs=3)


@pytest.mark.parametrize(
    ("count", "how", "error", "message"),
    [
        (39, {}, DataError, "takes at least 40 images, got 39"),
        (60, {"low": 7}, DataError, "takes at least 70 images, got 60"),
        (60, {"low": 5, "high": 4}, ConfigError, "expected 2 <= least <= greatest, got 5 and 4"),
        (60, {"low": 1}, ConfigError, "got 1 and 80"),
    ],
)
def test_what_cannot_be_decided_is_refused(rng, count, how, error, message):
    with pytest.raises(error, match=message):
        estimate(rng.standard_normal((count, 4)), **how)


def test_images_that_are_all_the_same_are_refused():
    with pytest.raises(DataError, match="all 50 rows are the same"):
        estimate(np.ones((50, 4)))


SAID = {"k-means, again": 3, "silhouette": 5, "graph, again": 4, "parts of the graph": 9}
CURVES = {way: Curve((0.3, 0.5, 0.6), (0.01, 0.02, 0.03)) for way in list(SAID)[:3]}
FOUND = Estimate(4, 4, 5, SAID, (3, 4, 5), CURVES, (50, 30, 20), 100, groups=True)


@pytest.mark.parametrize(
    ("said", "taken", "alike"),
    [
        ((10, 10, 10, 36), 10, (10, 10)),
        ((3, 6, 6, 6), 6, (3, 6)),
        ((2, 6, 7, 7), 6, (6, 7)),
        ((5, 7, 5, 10), 6, (5, 10)),
        ((4, 9, 4, 9), 6, (4, 9)),
    ],
)
def test_the_middle_is_taken_and_an_outlier_is_not_believed(rng, monkeypatch, said, taken, alike):
    scores = [Curve(tuple(float(k == way) for k in range(2, 11)), (0.0,) * 9) for way in said[:3]]
    curves = dict(zip(num_clusters._ALIKE, scores, strict=True))
    sizes = [np.array([50, 50])] * 9
    monkeypatch.setattr(num_clusters, "_curves", lambda *_: (curves, sizes))
    monkeypatch.setattr(num_clusters, "_parts", lambda *_: said[3])
    found = estimate(rng.standard_normal((100, 4)), high=10)
    assert (found.num_clusters, (found.low, found.high)) == (taken, alike)
    assert list(found.said.values()) == list(said)
    assert found.groups


def test_what_looks_alike_is_said():
    ways = (
        ", the middle of 3 by what comes back in other images, 5 by how compact clusters are, 4 by "
        "what comes back among neighbours, 9 by how the neighbours hang together"
    )
    assert FOUND.sentence == f"4 to 5 clusters look alike; 4 is taken{ways}"
    assert dataclasses.replace(FOUND, high=4).sentence == f"4 clusters{ways}"


@pytest.mark.parametrize(
    ("sizes", "unequal"),
    [((30, 25, 20), False), ((80, 10, 10), True), ((35, 35, 30, 10), False), ((100,), False)],
)
def test_unequal_sizes_are_told(sizes, unequal):
    assert dataclasses.replace(FOUND, sizes=sizes).unequal is unequal


def test_the_page_shows_the_curves_with_their_errors():
    row = {way: 0.1 for way in CURVES} | {f"{way}, error": 0.01 for way in CURVES}
    curve = [row | {"num_clusters": number} for number in FOUND.numbers]
    tree = {"said": SAID, "sentence": FOUND.sentence, "curve": curve, "unequal": "<Sizes> differ."}
    html = number_section.html(tree | {"true": 4})
    assert html.startswith("<p>4 to 5 clusters look alike")
    assert "the true number is 4.</p><p>&lt;Sizes&gt; differ.</p>" in html
    assert html.count("<polyline") == 3
    assert "K-means, again: 3" in html
    assert number_section.html(None) == ""
