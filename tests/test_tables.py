from __future__ import annotations

import csv
import statistics
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scan_tf.evaluation import charts
from scan_tf.experiments import tables

KMEANS = {"acc": 0.5, "nmi": 0.4, "ari": 0.3, "num_clusters_used": 10.0, "restarts": 3}
KMEANS |= {f"{k}_std": 0.01 for k in ("acc", "nmi", "ari", "num_clusters_used")}
PARENT = {"kmeans_pixels": KMEANS | {"acc": 0.2, "restarts": 1}, "kmeans_features": KMEANS}


def row(seed: int, acc: float | None, *, error: str | None = None, **settings: Any) -> dict:
    """A run of 10 clusters; `acc` of self-label is higher by 0.1, None: it has no labels."""
    report: dict[str, Any] = {"num_clusters": 10, "scan": None, "selflabel": None}
    for stage, gain in (("scan", 0.0), ("selflabel", 0.1)):
        scores = None if acc is None else acc + gain
        report[stage] = {"acc": scores, "nmi": scores, "ari": scores}
        report[stage] |= {"mean_confidence": 0.9 + gain / 2, "num_clusters_used": 9}
    if error is not None:
        report["selflabel"] = None
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    return {**settings, "seed": seed, **tables.scores(report), "wall_time_s": 1.5, "error": error}


def cells(table: str) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "the columns are aligned"
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if "---" not in line]


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """What is given to the chart."""
    calls: list[dict] = []

    def series(path, x, series, **options):
        calls.append({"path": path, "x": x, "series": series, **options})

    monkeypatch.setattr(charts, "series", series)
    return calls


def test_mean_and_deviation_leave_out_what_is_not_known():
    assert tables.summary([1.0, None, 4.0]) == {"mean": 2.5, "std": 1.5, "values": [1.0, None, 4.0]}
    assert tables.summary([2]) == {"mean": 2, "std": 0, "values": [2]}
    assert tables.summary([None]) == {"mean": None, "std": None, "values": [None]}
    assert tables.summary([]) == {"mean": None, "std": None, "values": []}


def test_a_row_has_the_scores_of_a_report():
    whole = row(0, 0.25)
    assert whole["num_clusters"] == 10
    assert (whole["scan_acc"], whole["selflabel_acc"]) == (0.25, 0.35)
    assert (whole["scan_num_clusters_used"], whole["scan_mean_confidence"]) == (9, 0.9)
    nothing = tables.scores({})
    assert nothing.keys() == tables.scores({"scan": {"acc": 1.0}}).keys()
    assert set(nothing.values()) == {None}


def test_the_csv_has_every_row_and_values_as_they_are_typed(tmp_path):
    rows = [row(0, 0.25, a=5.0, b=None), row(1, 0.5, a=1e-3, b=[1, 2], error="no, not so\nhere")]
    tables.write_csv(tmp_path / "new" / "table.csv", rows, ["a", "b"])
    with (tmp_path / "new" / "table.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(rows[0])
    assert (first["a"], first["b"], first["error"]) == ("5", "null", "")
    assert (second["a"], second["b"], second["error"]) == ("0.001", "[1, 2]", "no, not so\nhere")
    assert float(first["scan_acc"]) == 0.25
    assert second["selflabel_acc"] == ""


def test_a_line_for_each_point_has_means_over_its_seeds():
    rows = [row(s, a + s / 10, w=w) for w, a in ((5.0, 0.3), (1, 0.5)) for s in (0, 1, 2)]
    header, first, second = cells(tables.by_point(rows, ["w"], PARENT))
    assert header[:3] == ["w", "seeds", "SCAN ACC"]
    assert header[6:8] == ["+ self-label ACC", "+ self-label NMI"]
    assert header[5] == "SCAN clusters used"
    deviation = 100 * statistics.pstdev([0.3, 0.4, 0.5])
    assert first == ["5", "3", *[f"40.0 ± {deviation:.1f}"] * 3, "9.0 ± 0.0"] + [
        *[f"50.0 ± {deviation:.1f}"] * 3,
        "9.0 ± 0.0",
    ]
    assert second[:3] == ["1", "3", f"60.0 ± {deviation:.1f}"]


def test_one_seed_has_no_deviation():
    (_, line) = cells(tables.by_point([row(0, 0.3, w=5)], ["w"], None))
    assert line == ["5", "1", "30.0", "30.0", "30.0", "9.0", "40.0", "40.0", "40.0", "9.0"]


def test_kmeans_is_named_below_the_points_and_above_the_stages():
    rows = [row(0, 0.3, w=5)]
    notes = tables.by_point(rows, ["w"], PARENT).splitlines()
    assert "k-means on pixels: ACC 20.0, NMI 40.0, ARI 30.0, clusters used 10.0" in notes
    assert (
        "k-means on pretext features: ACC 50.0 ± 1.0, NMI 40.0 ± 1.0, ARI 30.0 ± 1.0, "
        "clusters used 10.0 ± 0.0" in notes
    )
    assert "k-means on" not in tables.by_point(rows, ["w"], None)
    assert "features" not in tables.by_point(rows, ["w"], PARENT | {"kmeans_features": None})
    lines = cells(tables.by_stage([row(s, a) for s, a in enumerate((0.3, 0.5))], PARENT))
    assert lines == [
        ["over 2 seeds", "ACC", "NMI", "ARI", "clusters used"],
        ["k-means on pixels", "20.0", "40.0", "30.0", "10.0"],
        ["k-means on pretext features", "50.0 ± 1.0", "40.0 ± 1.0", "30.0 ± 1.0", "10.0 ± 0.0"],
        ["SCAN", *["40.0 ± 10.0"] * 3, "9.0 ± 0.0"],
        ["+ self-label", *["50.0 ± 10.0"] * 3, "9.0 ± 0.0"],
    ]


def test_a_failure_is_told_and_left_out_of_the_means():
    rows = [row(0, 0.3, w=1), row(1, 0.5, w=1, error="no luck"), row(0, 0.3, w=2, error="none")]
    rows[2] |= tables.scores({})
    text = tables.by_point(rows, ["w"], None)
    _, first, second = cells(text)
    assert (first[1], first[2], first[6]) == ("2", "40.0 ± 10.0", "40.0")
    assert second == ["2", "0 of 1", *["-"] * 8]
    (header, *_) = cells(tables.by_point([rows[1]], ["w"], None))
    assert not [name for name in header if "self-label" in name], "no stage without a score"
    assert "failed: w=1 seed 1: no luck" in text.splitlines()
    assert "failed: w=2 seed 0: none" in text.splitlines()
    assert "failed: seed 1: no luck" in tables.by_stage(rows[:2], None).splitlines()


def test_without_labels_the_confidence_stands_in(drawn, tmp_path):
    rows = [row(s, None, w=w) for w in (1, 2) for s in (0, 1)]
    unlabelled = {name: scores | {"acc": None} for name, scores in PARENT.items()}
    text = tables.by_point(rows, ["w"], unlabelled)
    header, first, _ = cells(text)
    assert header[2:4] == ["SCAN confidence", "SCAN clusters used"]
    assert first == ["1", "2", "90.0 ± 0.0", "9.0 ± 0.0", "95.0 ± 0.0", "9.0 ± 0.0"]
    assert "k-means on" not in text
    assert "ACC" not in tables.by_stage(rows, unlabelled)
    tables.draw(tmp_path / "s.png", rows, ["w"], unlabelled)
    (chart,) = drawn
    assert chart["level"] is None
    assert chart["ylabel"] == "%"
    means = {name: values[0] for name, values in chart["series"].items()}
    assert means["SCAN, confidence"] == pytest.approx([90, 90])
    assert means["+ self-label, confidence"] == pytest.approx([95, 95])
    assert means["SCAN, clusters used"] == pytest.approx([90, 90])


def test_where_all_failed_kmeans_is_still_told(tmp_path):
    rows = [row(0, 0.3, w=w, error="no luck") | tables.scores({}) for w in (1, 2)]
    assert "k-means on pixels: ACC 20.0" in tables.by_point(rows, ["w"], PARENT)
    assert [line[0] for line in cells(tables.by_stage(rows, PARENT))[1:]] == [
        "k-means on pixels",
        "k-means on pretext features",
    ]
    tables.draw(tmp_path / "s.png", rows, ["w"], PARENT)
    assert (tmp_path / "s.png").exists()


def test_the_chart_shows_both_stages_against_the_numbers_in_order(drawn, tmp_path):
    rows = [row(s, a + s / 10, w=w) for w, a in ((5.0, 0.3), (1, 0.5)) for s in (0, 1)]
    tables.draw(tmp_path / "s.png", rows, ["w"], PARENT)
    (chart,) = drawn
    assert (chart["x"], chart["xlabel"], chart["ylabel"]) == ([1, 5.0], "w", "ACC, %")
    assert chart["level"] == ("k-means on pretext features", 50)
    assert not chart["log_x"]
    assert list(chart["series"]) == ["SCAN", "+ self-label"]
    means, deviations = chart["series"]["SCAN"]
    assert means == pytest.approx([55, 35])
    assert deviations == pytest.approx([5, 5])
    assert chart["series"]["+ self-label"][0] == pytest.approx([65, 45])


def test_the_chart_has_a_line_for_each_value_of_a_second_axis(drawn, tmp_path):
    rows = [row(0, a, kind=k, w=w) for k, w, a in (("b", 1, 0.1), ("b", 9, 0.2), ("a", 9, 0.3))]
    tables.draw(tmp_path / "s.png", rows, ["kind", "w"], None)
    (chart,) = drawn
    assert (chart["xlabel"], chart["x"]) == ("w", [1, 9])
    assert list(chart["series"]) == [
        "SCAN, kind=b",
        "SCAN, kind=a",
        "+ self-label, kind=b",
        "+ self-label, kind=a",
    ]
    means, deviations = chart["series"]["SCAN, kind=a"]
    np.testing.assert_allclose(means, [np.nan, 30])
    assert deviations is None


def test_the_line_of_scan_does_not_depend_on_self_label(drawn, tmp_path):
    rows = [row(s, 0.3, w=w, selflabel__x=x) for w in (1, 2) for x in (5, 6) for s in (0, 1)]
    tables.draw(tmp_path / "s.png", rows, ["w", "selflabel.x"], None)
    lines = drawn[0]["series"]
    assert list(lines) == ["SCAN", "+ self-label, selflabel.x=5", "+ self-label, selflabel.x=6"]
    assert [lines["SCAN"][0], lines["SCAN"][1]] == [pytest.approx([30, 30]), pytest.approx([0, 0])]


@pytest.mark.parametrize(
    ("values", "x", "log"),
    [
        ([1e-4, 1e-3, 1e-2], [1e-4, 1e-3, 1e-2], True),
        ([5, 10, 50], [5, 10, 50], False),
        ([0, 1, 100], [0, 1, 100], False),
        ([True, False], ["true", "false"], False),
        ([None, 3], ["null", "3"], False),
        (["weak", "strong"], ["weak", "strong"], False),
    ],
)
def test_any_kind_of_value_can_be_drawn(tmp_path, drawn, values, x, log):
    rows = [row(0, 0.3, v=value) for value in values]
    tables.draw(tmp_path / "s.png", rows, ["v"], None)
    assert (drawn[0]["x"], drawn[0]["log_x"]) == (x, log)
    assert drawn[0]["series"]["SCAN"][0] == pytest.approx([30] * len(values))


@pytest.mark.parametrize("values", [[1e-4, 1e-2], ["weak", "strong"], [1]])
def test_the_picture_is_written(tmp_path, values):
    rows = [row(s, 0.3 + s / 10, v=value) for value in values for s in (0, 1)]
    tables.draw(tmp_path / "new" / "s.png", rows, ["v"], PARENT)
    with Image.open(tmp_path / "new" / "s.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10
