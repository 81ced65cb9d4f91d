from __future__ import annotations

import csv
import json

import pytest
from tiny_runs import copy, opened, reseal, scan_tf

from scan_tf.experiments import compare


def change(run, **changes) -> None:
    """Change a report, `part__key=value`."""
    path = run / "eval" / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *parts, key = name.split("__")
        inner = report
        for part in parts:
            inner = inner[part]
        inner[key] = value
    path.write_text(json.dumps(report), encoding="utf-8")
    reseal(run, "evaluate")


@pytest.fixture
def other(finished, tmp_path):
    """A run like the finished one, of which other things are said."""
    run = copy(finished, tmp_path / "other" / "run")
    by_k = {"5": 0.5, "10": 0.75, "60": 1.0}
    change(run, scan__acc=0.25, selflabel__acc=0.125, pretext__features__backbone__knn_acc=0.5)
    change(run, pretext__features__backbone__knn_acc_by_k=by_k)
    return run


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "compare.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_two_runs_side_by_side(finished, other, tmp_path, capsys):
    output = tmp_path / "compared"
    assert scan_tf("compare", finished, other, "--output", output) == 0
    printed = capsys.readouterr().out
    text = (output / "compare.md").read_text(encoding="utf-8")
    assert text.strip() in printed
    assert str(output) in printed
    header, _, first, second = cells(text)
    assert header[:3] == ["run", "pretext", "epochs"]
    assert "kNN" not in header
    assert [row[0] for row in (first, second)] == [f"{finished.parent.name}/run", "other/run"]
    assert first[1:3] == second[1:3] == ["simclr", "20"]
    found = dict(zip(header, second, strict=True))
    assert (found["SCAN"], found["self-label"]) == ("25.0", "12.5")
    assert found["kNN backbone"] == "50.0 / 75.0 / 100.0"
    assert "kNN asks 5 / 10 / 60 neighbours" in text
    assert found["time"].endswith("min")
    report = json.loads((finished / "eval" / "report.json").read_text(encoding="utf-8"))
    row, changed = rows_of(output)
    assert (
        float(row["linear_projection"])
        == (report["pretext"]["features"]["projection"]["linear_probe_acc"])
    )
    assert float(row["kmeans_acc"]) == report["kmeans_features"]["acc"]
    assert (row["split"], row["num_images"], row["knn_k"]) == ("test", "15", "5")
    assert float(row["total_s"]) == pytest.approx(sum(report["wall_time_s"].values()), abs=0.02)
    assert float(row["peak_memory_mib"]) > 50
    assert float(changed["scan_acc"]) == 0.25
    assert (changed["knn_backbone"], changed["knn_backbone_k10"]) == ("0.5", "0.75")
    assert (output / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_what_keeps_runs_from_being_compared_is_said(finished, other):
    change(other, num_images=99, kept="scan")
    rows = [{"run": n, **compare.columns(opened(r))} for n, r in (("a", finished), ("b", other))]
    text = compare.table(rows)
    assert "Not scored on the same images: a on 15 of folder, test; b on 99 of folder, t" in text
    assert "Self-label did harm, and SCAN was kept: b." in text


def test_reports_from_before_both_features_were_scored(other):
    change(other, pretext__features=None, pretext__knn_acc=0.75, pretext__linear_probe_acc=0.5)
    row = {"run": "old", **compare.columns(opened(other))}
    header, _, found = cells(compare.table([row]))
    found = dict(zip(header, found, strict=True))
    assert (found["kNN"], found["linear backbone"]) == ("75.0", "50.0")
    assert "kNN backbone" not in found


def test_without_labels_there_is_a_table_of_costs(other, tmp_path):
    scores = dict.fromkeys(("features", "knn_acc", "linear_probe_acc", "neighbor_purity"))
    change(other, **{f"pretext__{name}": None for name in scores})
    change(other, scan__acc=None, selflabel__acc=None, kmeans_features__acc=None)
    text = compare.write([other], tmp_path / "compared")
    assert "no labels, so that there are no scores" in text
    assert cells(text)[0] == ["run", "pretext", "epochs", "pretext time", "time", "memory"]
    assert not (tmp_path / "compared" / "compare.png").exists()


def test_what_cannot_be_compared_is_refused(finished, other, tmp_path, capsys):
    def error(*runs) -> str:
        assert scan_tf("compare", *runs, "--output", tmp_path / "compared") == 2
        assert not (tmp_path / "compared").exists()
        return capsys.readouterr().err

    assert f"{tmp_path / 'config.yaml'}: no such file" in error(finished, tmp_path)
    assert "is given twice" in error(finished, other, finished)
    (other / "eval" / "report.json").write_text("{", encoding="utf-8")
    assert "report.json: damaged" in error(other)
    opened(other).redo("evaluate")
    assert f"Run: scan-tf evaluate --run-dir {other}" in error(finished, other)
