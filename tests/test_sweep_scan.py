from __future__ import annotations

import csv

import pytest
from tiny_runs import copy, opened, scan_tf

pytestmark = pytest.mark.usefixtures("eager")


@pytest.mark.slow
def test_without_selflabel_scan_alone_is_trained_and_scored(finished, tmp_path):
    run = copy(finished, tmp_path / "run")
    settings = ("scan.entropy_weight=1,5", "scan.epochs=1", "selflabel.epochs=1")
    settings += ("scan.freeze_backbone=true", "scan.cached_views=1", "scan.optimizer.lr=0.1")
    assert scan_tf("sweep", "--run-dir", run, *settings, "--no-selflabel") == 0
    folder = run / "sweeps" / "scan.entropy_weight"
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["scan.entropy_weight"] for row in rows] == ["1", "5"]
    assert all(row["scan_acc"] and not row["selflabel_acc"] for row in rows)
    for row in rows:
        point = folder / f"scan.entropy_weight={row['scan.entropy_weight']}" / "seed-0"
        assert opened(point).is_done("evaluate")
        assert not (point / "selflabel").exists()
    # The same points can be carried on to the end.
    assert scan_tf("sweep", "--run-dir", run, *settings) == 0
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        after = list(csv.DictReader(file))
    assert [r["scan_acc"] for r in after] == [r["scan_acc"] for r in rows]
    assert all(row["selflabel_acc"] for row in after)
