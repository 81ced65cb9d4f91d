from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from scan_tf.evaluation import svg

NAN, INF = float("nan"), float("inf")


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{text}</div>")


def places(text: str) -> list[list[tuple[float, float]]]:
    lines = [line.get("points", "").split() for line in parsed(text).iter("polyline")]
    return [[tuple(map(float, point.split(","))) for point in line] for line in lines]


def test_points_lie_where_their_values_are():
    chart = svg.lines("t", {"a": [(0, 0), (5, 1), (10, 2)]}, xlabel="x")
    ((first, middle, last),) = places(chart)
    assert first[0] < middle[0] < last[0]
    assert first[1] > middle[1] > last[1], "y points down"
    np.testing.assert_allclose(np.add(first, last) / 2, middle, atol=0.1)


def test_a_logarithmic_axis_and_errors():
    chart = svg.lines(
        "t", {"a": [(2, 1), (4, 3), (8, 2)]}, xlabel="x", log_x=True, errors=[0.5, 0, 0.25],
        y_range=(0, 4),
    )  # fmt: skip
    (points,) = places(chart)
    x, y = np.array(points).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    bars = {
        float(line.get("x1", "")): abs(float(line.get("y1", "")) - float(line.get("y2", "")))
        for line in parsed(chart).iter("line")
        if line.get("class") == "tick" and line.get("x1") == line.get("x2")
    }
    unit = (y[0] - y[1]) / 2  # of the values
    assert bars[x[0]] == pytest.approx(unit, abs=0.2)
    assert [text.text for text in parsed(chart).iter("text") if text.text in ("2", "5", "x")]


def test_what_is_not_finite_is_left_out():
    chart = svg.lines("t", {"a": [(0, 1), (1, NAN), (2, INF), (3, 2)], "b": [(0, NAN)]}, xlabel="x")
    (points,) = places(chart)
    assert len(points) == 2
    assert "nan" not in chart
    assert "no values" in svg.lines("t", {"a": []}, xlabel="x")


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-7, 1e9])
def test_a_constant_and_a_single_point(value):
    for points in ([(1, value)], [(1, value), (2, value)]):
        ((first, *_),) = places(svg.lines("t", {"a": points}, xlabel="x"))
        assert 0 < first[0] < svg.WIDTH
        assert 0 < first[1] < svg.HEIGHT


def test_many_points_are_thinned_out_with_both_ends():
    points = [(float(i), float(i % 7)) for i in range(10_000)]
    (thin,) = places(svg.lines("t", {"a": points}, xlabel="x"))
    assert len(thin) == 400
    assert thin[0][0] == pytest.approx(48)
    assert thin[-1][0] == pytest.approx(svg.WIDTH - 12)


def test_texts_are_escaped():
    odd = "<b>&\"'"
    chart = svg.lines(odd, {odd: [(0, 1)], "b": [(0, 1)]}, xlabel=odd, ylabel=odd)
    assert "<b>" not in chart
    assert "".join(parsed(chart).itertext()).count(odd) == 4


def test_columns_are_as_high_as_their_counts():
    chart = svg.columns("t", [0, 1, 2, 3], [5, 0, 10], xlabel="x", ylabel="y")
    heights = [float(rect.get("height")) for rect in parsed(chart).iter("rect")]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert list(parsed(svg.columns("t", [0, 1], [0], xlabel="x", ylabel="y")).iter("rect")) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0.1, 0.11, [0.1, 0.102, 0.104, 0.106, 0.108, 0.11]),
    ],
)
def test_ticks_are_round(low, high, expected):
    np.testing.assert_allclose(svg.ticks(low, high), expected, atol=1e-12)


@pytest.mark.parametrize(
    "values", [(0, 1), (0.3998, 0.4), (0, 50_000), (1e-6, 3e-6), (-5, 5), (0, 2000)]
)
def test_no_two_ticks_have_the_same_number(values):
    points = list(zip((0, 1), values, strict=True))
    chart = svg.lines("t", {"a": points}, xlabel="x")
    numbers = re.findall(r'text-anchor="end">([^<]+)<', chart)
    assert len(numbers) == len(set(numbers)) >= 3
