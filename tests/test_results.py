from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import result_table
import yaml
from tiny_runs import copy, opened, reseal, scan_tf

from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.experiments import published_results
from scan_tf.pipeline.stage import up_to
from scan_tf.storage.files import read_metrics

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "results.py"
DAY = 1_767_225_600  # 2026-01-01, noon
FILES = {"report.json", "config.yaml", "metrics.jsonl", "environment.json"}


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def change(path: Path, **changes) -> None:
    """Change a file of a run, and what its records know of it."""
    run, known = path.parents[1], load(path) | changes
    if path.parent.name == "status":
        known.pop("sha256")
    path.write_text(json.dumps(known), encoding="utf-8")
    if path.name == "report.json":
        reseal(run, "evaluate")


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A finished run, evaluated on a known day."""
    run = copy(finished, tmp_path / "runs" / "0")
    os.utime(run / "eval" / "report.json", (DAY, DAY))
    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of results without any, and figures of a paper."""
    folder = tmp_path / "results"
    folder.mkdir()
    published = {"data": "folder", "config": "Big, SimCLR", "source": "A paper"}
    published |= {"scan": {"acc": [81.8, 0.3], "nmi": [71.2], "ari": [66.5]}}
    published |= {"selflabel": {"acc": [74.25]}}
    (folder / "published.json").write_text(json.dumps([published, {"data": "other"}]))
    return folder


def add(roots, folder, **options) -> Path:
    roots = [roots] if isinstance(roots, Path) else roots
    options = {"name": "tiny", "commit": "0123456789ab", **options}
    return published_results.add(roots, folder, **options)


def test_a_run_without_the_last_stage_is_a_result_too(run, folder):
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings["selflabel"]["epochs"] = 0
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    shutil.rmtree(run / "selflabel")
    (run / "status" / "selflabel.json").unlink()
    change(run / "eval" / "report.json", selflabel=None)
    os.utime(run / "eval" / "report.json", (DAY, DAY))
    added = add(run, folder, hardware="2 cores")
    assert set(load(added / "environment.json")["wall_time_s"]) == {*up_to("evaluate")} - {
        "selflabel"
    }
    row = next(x for x in result_table.rows(folder).splitlines() if "tiny" in x)
    assert [cell.strip() for cell in row.split("|")][7] == "-"


def test_a_run_leaves_small_text_files_without_paths(run, folder, tmp_path):
    added = add(run, folder, data_note="squares", hardware="2 cores", note="by hand")
    assert added == folder / "2026-01-01-tiny"
    assert {f.name for f in added.iterdir()} == FILES
    for file in added.iterdir():
        text = file.read_text(encoding="utf-8")
        assert len(text) < 100_000
        assert str(tmp_path) not in text
        assert str(opened(run).config.data.path) not in text
    report = load(run / "eval" / "report.json")
    assert load(added / "report.json") == report
    settings = yaml.safe_load((added / "config.yaml").read_text())
    before = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["data"].pop("path") is None
    before["data"].pop("path")
    assert settings == before
    environment = load(added / "environment.json")
    assert environment["wall_time_s"].items() >= report["wall_time_s"].items()
    assert environment["commit"] == "0123456789ab"
    assert environment["data_note"] == "squares"
    assert environment["hardware"] == "2 cores"
    assert environment["note"] == "by hand"
    assert environment["versions"].keys() >= {"tensorflow", "keras"}
    (command,) = environment["command"]
    assert command == "scan-tf run --config results/2026-01-01-tiny/config.yaml data.path=DIR"
    stages = [row["stage"] for row in read_metrics(added / "metrics.jsonl")]
    assert list(dict.fromkeys(stages)) == ["pretext", "scan", "selflabel"]


def test_names_of_skipped_files_are_kept_without_their_folders(run, folder):
    change(run / "eval" / "report.json", skipped_files=["/home/me/a.png", "b.png"])
    assert load(add(run, folder) / "report.json")["skipped_files"] == ["a.png", "b.png"]


@pytest.mark.parametrize("stage", ["pretext", "neighbors", "scan", "selflabel", "evaluate"])
def test_an_unfinished_run_is_refused(run, folder, stage):
    change(run / "status" / f"{stage}.json", status="interrupted")
    with pytest.raises(StageError, match=f"the stage '{stage}' has not finished. Run: scan-tf"):
        add(run, folder)
    assert not list(folder.glob("*/"))


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x"])
def test_a_bad_name_is_refused(run, folder, name):
    with pytest.raises(ConfigError, match="--name: expected letters, digits"):
        add(run, folder, name=name)


def test_results_are_not_overwritten_and_know_their_commit(run, folder):
    change(run / "environment.json", commit=None)
    with pytest.raises(ConfigError, match="commit was not recorded. Give it by --commit"):
        add(run, folder, commit=None)
    change(run / "environment.json", commit="feed" * 10)
    added = add(run, folder, commit=None)
    assert load(added / "environment.json")["commit"] == "feed" * 10
    with pytest.raises(ConfigError, match="2026-01-01-tiny exists. Give another name"):
        add(run, folder)


def test_sessions_tell_where_it_ran(run, folder):
    session = {"begun": "2026", "minutes": 9.0, "ended": "budget", "commit": "c0", "processor": "P"}
    machines = [{"accelerators": ["G"], "cores": 16, "memory_gib": 128}, {"cores": 2}]
    lines = [json.dumps(session | {"hardware": m, "command": ["/x"]}) + "\n" for m in machines]
    (run / "sessions.jsonl").write_text("".join([*lines, lines[-1]]))
    environment = load(add(run, folder, commit=None) / "environment.json")
    assert environment["hardware"] == "G, 16 cores of P, 128 GiB; 2 cores of P"
    assert environment["commit"] == "c0"
    assert [row["ended"] for row in environment["sessions"]] == ["budget"] * 3


def test_metrics_are_thinned_to_what_a_curve_needs():
    rows = [{"step": s, "epoch": round(s / 40, 4)} for s in range(10, 40_001, 10)]
    kept = published_results.thin(rows)
    assert len(kept) == published_results.MAX_ROWS
    assert (kept[0], kept[-1]) == (rows[0], rows[-1])
    steps = [row["step"] for row in kept]
    assert np.diff(steps).min() > 0
    assert np.diff(steps).max() < 500
    # All ends of epochs stay where they are few.
    kept = published_results.thin(rows[:400])
    assert {r["step"] for r in rows[:400] if r["epoch"] % 1 == 0} <= {r["step"] for r in kept}
    assert published_results.thin(rows[:200]) == rows[:200]


def seed_scores(run: Path) -> dict:
    scores = {"seeds": [0, 1, 2], "deviation": "population"}
    for stage, acc in (("scan", [0.8, None, 0.9]), ("selflabel", [0.91, None, 0.95])):
        known = [a for a in acc if a is not None]
        summary = {"mean": statistics.fmean(known), "std": statistics.pstdev(known), "values": acc}
        scores[stage] = {"acc": summary, "nmi": summary, "ari": summary}
    path = run / "sweeps" / "seeds" / "scores.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(scores))
    return scores


def test_repeated_clusterings_are_published_as_means(run, folder):
    scores = seed_scores(run)
    added = add(run, folder)
    assert load(added / "scores.json") == {"repeated": "clustering", **scores}
    where = "--config results/2026-01-01-tiny/config.yaml --run-dir RUN_DIR data.path=DIR"
    assert load(added / "environment.json")["command"] == [
        f"scan-tf run {where}",
        "scan-tf evaluate --run-dir RUN_DIR --seeds 0 1 2",
    ]
    text = result_table.table(folder)
    assert "| 85.0 ± 5.0 / 85.0 ± 5.0 / 85.0 ± 5.0 | 93.0 ± 2.0 / " in text
    assert "; clustering repeated with 2 of 3 seeds; " in text


def test_repeated_runs_are_published_as_means(run, folder, tmp_path):
    other = copy(run, tmp_path / "runs" / "1")
    report = load(other / "eval" / "report.json")
    report["seed"] = 1
    report["selflabel"]["acc"] -= 0.1
    change(other / "eval" / "report.json", **report)
    settings = (other / "config.yaml").read_text().replace("\nseed: 0\n", "\nseed: 1\n")
    (other / "config.yaml").write_text(settings)
    record = load(other / "status" / "pretext.json")
    record["config"]["seed"] = 1
    record["wall_time_s"] += 60
    change(other / "status" / "pretext.json", **record)
    added = add([run, other], folder)
    scores = load(added / "scores.json")
    assert (scores["repeated"], scores["seeds"]) == ("all stages", [0, 1])
    found = load(run / "eval" / "report.json")
    acc = found["selflabel"]["acc"]
    assert scores["selflabel"]["acc"]["mean"] == pytest.approx(acc - 0.05)
    assert scores["selflabel"]["acc"]["std"] == pytest.approx(0.05)
    assert scores["pretext"]["knn_acc"]["values"] == [found["pretext"]["knn_acc"]] * 2
    environment = load(added / "environment.json")
    seconds = load(run / "status" / "pretext.json")["wall_time_s"]
    assert environment["wall_time_s"]["pretext"] == pytest.approx(seconds + 30)
    assert environment["command"][0].startswith("for s in 0 1; do scan-tf run ")
    assert "; all stages repeated with 2 seeds; " in result_table.table(folder)
    settings = (other / "config.yaml").read_text().replace("map_points: 2000", "map_points: 99")
    (other / "config.yaml").write_text(settings)
    record = load(other / "status" / "evaluate.json")
    record["config"]["evaluate"]["map_points"] = 99
    change(other / "status" / "evaluate.json", **record)
    with pytest.raises(StageError, match="runs/1: the runs differ in more than their seeds"):
        add([run, other], folder, name="again")


def test_the_table_has_a_row_and_a_note_for_each_and_the_paper_below(run, folder):
    report = load(run / "eval" / "report.json")
    report |= {"num_images": 10_000, "selection": "heldout"}
    report["pretext"] |= {"knn_acc": 0.6468, "neighbor_purity": None}
    report["kmeans_features"] |= {"acc": 0.3506, "acc_std": 0.0175, "nmi": 0.2322, "ari": 0.1508}
    report["scan"] |= {"acc": 0.4122, "nmi": 0.2996, "ari": 0.2011}
    report["selflabel"] |= {"acc": 0.4512, "nmi": 0.3152, "ari": 0.2208, "matching": "hungarian"}
    change(run / "eval" / "report.json", **report)
    os.utime(run / "eval" / "report.json", (DAY, DAY))
    for stage, seconds in (("pretext", 2322), ("neighbors", 36), ("scan", 752), ("selflabel", 300)):
        change(run / "status" / f"{stage}.json", wall_time_s=seconds)
    add(run, folder, hardware="2 cores", data_note="squares, JPEG q75 copy")
    table, legend, notes = result_table.table(folder).split("\n\n")
    header, rule, ours, paper = table.splitlines()
    assert header.count("|") == rule.count("|") == ours.count("|") == paper.count("|")
    ours, paper = (" | ".join(c.strip() for c in row.split("|")[1:-1]) for row in (ours, paper))
    assert ours == (
        "squares, JPEG q75 copy | [tiny](results/2026-01-01-tiny) | 64.7 | - "
        "| 35.1 ± 1.8 / 23.2 / 15.1 | 41.2 / 30.0 / 20.1 | 45.1 / 31.5 / 22.1 | 57 | [1]"
    )
    assert paper == (
        "folder | *Big, SimCLR* | - | - | - | 81.8 ± 0.3 / 71.2 / 66.5 | 74.2 / - / - "
        "| - | *published*"
    )
    assert "figures of the paper, for comparison (A paper)." in legend
    assert notes.startswith(
        "1. `scan-tf run --config results/2026-01-01-tiny/config.yaml data.path=DIR`; 10,000 "
        "images of the test split; seed 0; epoch and head selected on: heldout; 2 cores; "
    )
    assert "; pretext 38.7, neighbors 0.6, scan 12.5, selflabel 5.0 minutes; " in notes
    assert notes.endswith("; commit 0123456; 2026-01-01.")


def test_rows_of_the_same_data_stand_together(run, folder):
    add(run, folder, name="b")
    change(run / "eval" / "report.json", data="mnist")
    os.utime(run / "eval" / "report.json", (DAY, DAY))
    add(run, folder, name="c")
    change(run / "eval" / "report.json", data="folder")
    os.utime(run / "eval" / "report.json", (DAY, DAY))
    add(run, folder, name="d")
    links = re.findall(r"\[(\w)\]\(|\*(published)\*", result_table.table(folder))
    assert ["".join(link) for link in links[:4]] == ["b", "d", "published", "c"]


def test_only_what_is_between_the_markers_is_rewritten(run, folder, tmp_path):
    add(run, folder)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{result_table.START}\nold\n{result_table.END}\nafter\n")
    with pytest.raises(DataError, match=r"README.md: is out of date. Run: python scripts/results"):
        result_table.check(readme, folder)
    assert result_table.update(readme, folder)
    assert not result_table.update(readme, folder)
    result_table.check(readme, folder)
    text = readme.read_text()
    assert text.startswith(f"before\n{result_table.START}\n| data ")
    assert text.endswith(f".\n{result_table.END}\nafter\n")
    environment = folder / "2026-01-01-tiny" / "environment.json"
    change(environment, hardware="another")
    with pytest.raises(DataError, match="out of date"):
        result_table.check(readme, folder)
    environment.write_text("{")
    with pytest.raises(DataError, match=r"environment.json: cannot be read or is damaged"):
        result_table.check(readme, folder)
    readme.write_text("no markers")
    with pytest.raises(DataError, match="expected a line '<!-- results:start -->'"):
        result_table.check(readme, folder)


def test_the_readme_holds_the_table_of_the_results():
    for text in ("README.md", "docs/results.md"):
        result_table.check(ROOT / text, ROOT / "results")


def test_the_results_in_the_repository_are_small_texts_without_paths():
    folders = [path for path in (ROOT / "results").iterdir() if path.is_dir()]
    assert folders
    for file in (f for folder in folders for f in folder.iterdir()):
        assert file.name in FILES | {"scores.json"}
        assert file.stat().st_size < 200_000
        assert not re.search(r"/(tmp|home|root|work|mnt)/", file.read_text(encoding="utf-8"))


def test_a_result_is_added_and_the_table_checked(run, folder, tmp_path, capsys):
    def script(*arguments) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *map(str, arguments), "--results", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    options = ("--name", "tiny", "--commit", "c0ffee", "--data-note", "squares")
    assert scan_tf("publish", run, *options, "--results", folder) == 0
    assert capsys.readouterr().out == f"added: {folder / '2026-01-01-tiny'}\n"
    readme = tmp_path / "README.md"
    readme.write_text(f"{result_table.START}\n{result_table.END}\n")
    assert script("table", "--check", "--readme", readme).returncode == 2
    assert script("table", "--readme", readme).stdout == f"rewritten: {readme}\n"
    done = script("table", "--check", "--readme", readme)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
