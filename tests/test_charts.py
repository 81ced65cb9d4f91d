from __future__ import annotations

import sys

import numpy as np
import pytest
from png_files import ODD_NAMES, has_colour, pixels

from scan_tf.errors import DataError
from scan_tf.evaluation import charts
from scan_tf.evaluation.colours import as_hex, matched_palette, of_clusters, palette


@pytest.fixture(autouse=True)
def _no_global_state():
    """No picture may go through pyplot, which keeps figures and picks a display."""
    before = "matplotlib.pyplot" in sys.modules  # another test's library may have loaded it
    yield
    assert ("matplotlib.pyplot" in sys.modules) == before
    assert not before or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("count", [0, 1, 2, 10, 11, 20, 50, 1000])
def test_palette_is_distinct(count):
    colours = palette(count)
    assert colours.shape == (count, 3)
    assert colours.dtype == np.float32
    assert ((colours >= 0) & (colours <= 1)).all()
    # Distinct in the 24 bits of a PNG as well.
    assert len(np.unique((colours * 255).round().astype(int), axis=0)) == count


def test_palette_of_ten_differs_for_the_colour_blind():
    # Deuteranopia by Machado et al. (2009), on linear RGB; then differences in CIE L*a*b*, where
    # about 2 is just seen.
    colours = palette(10).astype(np.float64)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    simulate = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    to_xyz = [[0.434, 0.376, 0.190], [0.213, 0.715, 0.072], [0.018, 0.109, 0.873]]
    xyz = np.cbrt((linear @ np.transpose(simulate)).clip(1e-3, 1) @ np.transpose(to_xyz))
    lab = np.stack([116 * xyz[:, 1], 500 * (xyz[:, 0] - xyz[:, 1]), 200 * (xyz[:, 1] - xyz[:, 2])])
    distance = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=0)
    assert distance[~np.eye(10, dtype=bool)].min() > 15


def test_clusters_have_the_colours_of_their_classes():
    classes = palette(3)
    colours = matched_palette([2, 0, None, 2], 3)
    np.testing.assert_allclose(colours[[0, 1]], classes[[2, 0]])
    np.testing.assert_allclose(colours[2], 0.62)
    # A second cluster of a class has a lighter shade of the same colour.
    lighter = (colours[3] - classes[2]) / (1 - classes[2])
    assert lighter.std() < 1e-6
    assert 0.1 < lighter.mean() < 0.6
    many = matched_palette([0] * 100, 3)
    assert len(np.unique((many * 255).round().astype(int), axis=0)) == 100
    assert (many <= 1).all()


def test_clusters_have_the_colours_of_their_classes_where_those_are_known():
    labels, clusters = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 2, 2, 0])
    np.testing.assert_array_equal(of_clusters(clusters, 3, labels, 3), palette(3)[[2, 0, 1]])
    np.testing.assert_array_equal(of_clusters(clusters, 3), palette(3))
    assert [as_hex(colour) for colour in palette(2)] == ["#0072b2", "#e69f00"]


def test_a_legend_covers_nothing_and_a_headline_fits(tmp_path):
    lines = {f"run number {i}": ([1, 1, 1], None) for i in range(9)}
    long = "a headline of many words that goes on and on " * 4
    charts.series(tmp_path / "s.png", [1, 2, 3], lines, xlabel="x", ylabel="y", title=long)
    picture = pixels(tmp_path / "s.png")
    assert (picture[:, -3:] == 255).all(), "nothing reaches the right edge"
    charts.series(tmp_path / "1.png", [1, 2, 3], {"": ([1, 1, 1], None)}, **NAMES)


NAMES = {"xlabel": "x", "ylabel": "y", "title": "title"}


@pytest.mark.parametrize(
    ("x", "log_x"),
    [([1, 2, 50], False), ([0.001, 0.01, 0.1], True), (["a$b", "a rather long name", "c"], False)],
)
def test_series_of_numbers_and_of_names(tmp_path, x, log_x):
    lines = {"one": ([1, 2, 3], [0.1, 0.2, 0.3]), "$odd_": ([3, None, float("nan")], None)}
    charts.series(tmp_path / "s.png", x, lines, log_x=log_x, level=("chance", 2), **NAMES)
    picture = pixels(tmp_path / "s.png")
    assert has_colour(picture, (0, 114, 178), 1e-3)
    assert has_colour(picture, (230, 159, 0), 1e-5), "the second colour, of a single point"
    shade = np.round(0.18 * np.array([0, 114, 178]) + 0.82 * 255)
    assert has_colour(picture, shade, 1e-2), "the deviation"


def test_series_without_deviations_and_without_anything(tmp_path):
    charts.series(tmp_path / "1.png", [1, 2], {"one": ([1, 2], None)}, **NAMES)
    shade = np.round(0.18 * np.array([0, 114, 178]) + 0.82 * 255)
    assert not has_colour(pixels(tmp_path / "1.png"), shade, 1e-3)
    charts.series(tmp_path / "0.png", [], {}, **NAMES)
    assert not has_colour(pixels(tmp_path / "0.png"), (0, 114, 178))


@pytest.mark.parametrize(
    ("x", "values", "log_x", "message"),
    [
        ([1, 2], ([1], None), False, "series 'one': 1 values for 2 places"),
        ([1, 2], ([1, 2], [1]), False, "deviations of 'one': 1 values for 2 places"),
        ([0, 2], ([1, 2], None), True, r"needs numbers above 0, got \[0, 2\]"),
        (["a", "b"], ([1, 2], None), True, "needs numbers above 0"),
    ],
)
def test_series_must_fit_the_axis(tmp_path, x, values, log_x, message):
    with pytest.raises(DataError, match=message):
        charts.series(tmp_path / "s.png", x, {"one": values}, log_x=log_x, **NAMES)
    assert not list(tmp_path.iterdir())


def test_training_curves_skip_what_cannot_be_drawn(tmp_path):
    rows = [{"step": 10 * i, "epoch": i, "loss": 1 / i, "lr": 1e-4} for i in range(1, 5)]
    rows += [{"step": 50, "epoch": 5, "loss": float("nan"), "accuracy": None, "note": "text"}]
    table = charts._columns(rows)
    assert list(table) == ["loss", "lr"]
    assert table["loss"] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert table["lr"] == [(i, 1e-4) for i in range(1, 5)]


@pytest.mark.parametrize("stages", [{}, {"pretext": []}])
def test_training_curves_without_rows(tmp_path, stages):
    charts.training_curves(tmp_path / "c.png", stages)
    assert not has_colour(pixels(tmp_path / "c.png"), (0, 114, 178))


def test_training_curves_draw_a_panel_for_each_metric(tmp_path):
    one = [{"step": 1, "epoch": 1, "loss": -2.0}]
    many = [{"step": i, "epoch": i / 2, "loss": i, "entropy": 2.3} for i in range(100)]
    charts.training_curves(tmp_path / "1.png", {"pretext": one})
    charts.training_curves(tmp_path / "4.png", {"pretext": one, "empty": [], "scan": many})
    small, large = pixels(tmp_path / "1.png"), pixels(tmp_path / "4.png")
    assert has_colour(small, (0, 114, 178)), "a single point is seen"
    assert large.shape[0] > 1.5 * small.shape[0]
    assert large.shape[1] > 1.2 * small.shape[1]


@pytest.mark.parametrize("sizes", [[5], [0, 0, 0], [3, 0, 9], list(range(50))])
def test_cluster_sizes(tmp_path, sizes):
    names = (ODD_NAMES * 20)[: len(sizes)]
    charts.cluster_sizes(tmp_path / "s.png", np.array(sizes), names)
    assert has_colour(pixels(tmp_path / "s.png"), (0, 114, 178), 0.05) == any(sizes)


@pytest.mark.parametrize("confidences", [[], [1.0], [0.1, 0.5, 0.995, 1.0]])
def test_confidence_histogram(tmp_path, confidences):
    charts.confidence_histogram(tmp_path / "h.png", np.array(confidences, np.float32))
    assert has_colour(pixels(tmp_path / "h.png"), (0, 114, 178), 0.003) == bool(confidences)


def bins(counts, confidences, accuracies) -> list[dict]:
    edges = np.linspace(0, 1, len(counts) + 1)
    names = ("low", "high", "count", "confidence", "accuracy")
    values = zip(edges[:-1], edges[1:], counts, confidences, accuracies, strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def test_reliability_of_two_stages(tmp_path):
    empty = bins([0, 5, 5], [None, 0.5, 0.9], [None, 0.4, 0.6])
    one = bins([0, 0, 9], [None, None, 1.0], [None, None, 1.0])
    charts.reliability(tmp_path / "r.png", {"SCAN": (0.2, empty), "a$b": (0.0, one)})
    picture = pixels(tmp_path / "r.png")
    assert has_colour(picture, (0, 114, 178), 5e-3)
    assert has_colour(picture, (230, 159, 0), 5e-3)
    charts.reliability(tmp_path / "1.png", {"SCAN": (0.2, empty)})
    assert not has_colour(pixels(tmp_path / "1.png"), (230, 159, 0))


def test_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        charts.cluster_sizes(tmp_path / name, np.array([3, 4]), ["a", "b"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
