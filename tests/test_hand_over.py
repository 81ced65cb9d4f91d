"""Names, sorted folders, tables and predictions of a run, by the command line."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import opened, scan_tf

from scan_tf.errors import DataError
from scan_tf.pipeline import names
from scan_tf.pipeline import record as records
from scan_tf.pipeline.image_facts import ImageFacts

STORED = Path(__file__).parent / "data" / "run-format-1"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """The stored run, evaluated and exported by today's program."""
    folder = tmp_path_factory.mktemp("own") / "stored"
    shutil.copytree(STORED, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert scan_tf("run", "--run-dir", "run", "--redo", "evaluate") == 0
    return folder


@pytest.fixture
def run(evaluated, tmp_path, monkeypatch) -> Path:
    """A copy of its run directory, which is the current folder; the images are in `../images`."""
    shutil.copytree(evaluated, tmp_path / "stored", symlinks=True)
    monkeypatch.chdir(tmp_path / "stored")
    return Path("run")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_names_are_everywhere(run, capsys):
    before = rows_of(run / "eval" / "assignments.csv")
    assert {row["name"] for row in before} == {""}
    assert scan_tf("name", run, "0=cat & <dog>", "2=ä") == 0
    assert "0        5  cat & <dog>" in capsys.readouterr().out
    after = rows_of(run / "eval" / "assignments.csv")
    expected = {"0": "cat & <dog>", "1": "", "2": "ä"}
    assert after == [row | {"name": expected[row["cluster"]]} for row in before]
    page = (run / "eval" / "report.html").read_text(encoding="utf-8")
    assert "cat &amp; &lt;dog&gt;" in page
    assert "cat & <dog>" not in page
    assert scan_tf("predict", run, "images/test", "--output", "out.jsonl") == 0
    predicted = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert list(predicted[0]) == ["path", "cluster", "confidence", "name", "abstain"]
    assert [p["name"] for p in predicted] == [row["name"] for row in after]
    # A change by hand comes in by the same command.
    (run / "names.yaml").write_text(
        (run / "names.yaml").read_text("utf-8").replace("2: ä", "1: owl"), "utf-8"
    )
    assert scan_tf("name", run, "0=") == 0
    model = tf.saved_model.load(str(run / "export")).signatures["serving_default"]
    out = model(images=tf.zeros([2, 20, 30, 3], tf.uint8))
    listed = ["", "owl", ""]
    assert [n.decode() for n in out["name"].numpy()] == [listed[c] for c in out["cluster"].numpy()]
    assert names.read(opened(run)) == {1: "owl"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat", "'cat': expected CLUSTER=NAME, such as 3=cat"),
        ("x=cat", "expected CLUSTER=NAME"),
        ("3=cat", "expected a cluster of 0 to 2, got 3"),
        (f"{'9' * 5000}=cat", "expected a cluster of 0 to 2, got 9999999999 ... 9999999999."),
        ("1=a\nb", "expected 1 to 100 characters in one line"),
        (f"1={'x' * 101}", "expected 1 to 100 characters"),
        ("1==SUM(A1)", "would be a formula to a spreadsheet"),
    ],
)
def test_bad_names_are_refused(run, text, message, capsys):
    assert scan_tf("name", run, text) == 2
    assert message in capsys.readouterr().err
    assert not (run / "names.yaml").exists()


def test_names_of_other_weights_are_left_out(run, caplog):
    names.write(opened(run), {1: "owl"})
    with open(run / "selflabel" / "weights.npz", "ab") as file:
        file.write(b"\0")
    with caplog.at_level(logging.WARNING):
        assert names.read(opened(run)) == {}
    assert "left out 1=owl, which were given to the clusters of other weights" in caplog.text
    for text in (
        "names: [a]",
        "names: {x: y}",
        "names: {1: 2}",
        "weights: 3\nnames: {1: a}",
        "a: [",
    ):
        (run / "names.yaml").write_text(text)
        with pytest.raises(DataError, match=r"names\.yaml: damaged"):
            names.read(opened(run))


def test_sort_shows_makes_and_takes_back(run, tmp_path, capsys):
    target = tmp_path / "sorted"
    assert scan_tf("sort", run, "--to", target, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "cluster-0       5 images, such as cluster-0/test__blue__0.png" in shown
    assert "nothing was made" in shown
    assert not target.exists()
    assert scan_tf("sort", run, "--to", target, "--link") == 0
    made = sorted(target.glob("*/*"))
    assert len(made) == 9
    assert all(path.is_symlink() and path.is_file() for path in made)
    assert scan_tf("sort", "--undo", target / "sort-undo.jsonl") == 0
    assert "9 files taken back" in capsys.readouterr().out
    assert not target.exists()
    Path("images").rename("moved")
    assert scan_tf("sort", run, "--to", target) == 3
    assert "images: no such folder of images. Where is it? --images" in capsys.readouterr().err
    (Path("moved") / "test" / "red" / "1.png").unlink()
    options = ("--images", "moved", "--abstain", "1", "--copy")
    assert scan_tf("sort", run, "--to", target, *options) == 0
    assert "1 images are gone or were moved since, and are left out" in capsys.readouterr().out
    assert len(list((target / "none of these").iterdir())) == 8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to", "out"], 2, "give RUN and --to DIR, or --undo FILE"),
        (["run"], 2, "give RUN and --to DIR"),
        (["run", "--undo", "x"], 2, "--undo: goes alone"),
        (["nowhere", "--to", "out"], 3, "nowhere: no such folder"),
        (["run", "--to", "images/new"], 2, "lies among the images"),
        (["run", "--to", "out", "--split", "train"], 2, "eval-train: no such folder. Make it"),
        (["--undo", "none"], 3, "none: no such file"),
    ],
)
def test_bad_sorts_are_refused(run, arguments, code, message, capsys):
    assert scan_tf("sort", *arguments) == code
    assert message in capsys.readouterr().err


def test_a_table_for_other_tools(run):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert scan_tf("embeddings", run, "--to", "out.parquet") == 0
    table = parquet.read_table("out.parquet").to_pydict()
    columns = ["path", "cluster", "name", "confidence", "distance", "label", "x", "y"]
    assert list(table) == [*columns, "embedding"]
    rows = rows_of(run / "eval" / "assignments.csv")
    assert [Path(path).relative_to(Path("images").absolute()) for path in table["path"]] == [
        Path(row["path"]) for row in rows
    ]
    assert all(Path(path).is_file() for path in table["path"])
    assert [str(cluster) for cluster in table["cluster"]] == [row["cluster"] for row in rows]
    assert table["label"] == [Path(row["path"]).parts[-2] for row in rows]
    assert scan_tf("embeddings", run, "--to", "out.npz") == 0
    with np.load("out.npz") as file:
        np.testing.assert_array_equal(file["embedding"], table["embedding"])


def test_sort_and_embeddings_load_no_tensorflow(run):
    code = (
        "import sys\nfrom scan_tf import cli\n"
        "assert cli.main(['sort', 'run', '--to', 'out']) == 0\n"
        "assert cli.main(['embeddings', 'run', '--to', 'out.csv']) == 0\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_evaluation_of_before_is_made_anew(run, capsys):
    (run / "eval" / "embeddings.npz").unlink()
    assert scan_tf("embeddings", run, "--to", "out.csv") == 2
    assert "scan-tf evaluate --run-dir run --redo evaluate" in capsys.readouterr().err
    assert scan_tf("embeddings", run, "--to", "out.txt") == 2
    assert "expected a file that ends in one of .csv" in capsys.readouterr().err


def test_the_report_says_what_is_none_of_these(run):
    report = json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))
    found = report["abstain"]
    assert found["below"] <= 0.9
    assert 0 <= found["unsure"] + found["unlike"] <= 9
    facts = json.loads((run / "export" / "model.json").read_text(encoding="utf-8"))
    assert facts["abstain"] == {key: found[key] for key in ("below", "how", "far")}
    assert rows_of(run / "eval" / "outliers.csv") == [] or found["unlike"] > 0


def test_predict_marks_what_is_none_of_these(run):
    rows = rows_of(run / "eval" / "assignments.csv")
    confidence = sorted(float(row["confidence"]) for row in rows)
    limit = confidence[4]
    patterns = ["images/test/*/[01].png", "images/t?st/**/2.png"]
    how = ("--output", "out.csv", "--abstain", limit)
    assert scan_tf("predict", run, *patterns, *how) == 0
    found = rows_of(Path("out.csv"))
    assert len(found) == 9
    for row in found:
        if abs(float(row["confidence"]) - limit) > 1e-5 and row["abstain"] != "unlike":
            assert (row["abstain"] == "unsure") == (float(row["confidence"]) < limit)
    model = tf.saved_model.load(str(run / "export")).signatures["serving_default"]
    noise = np.random.default_rng(0).integers(0, 256, (4, 30, 20, 3), np.uint8)
    out = {k: v.numpy() for k, v in model(images=tf.constant(noise)).items()}
    told = json.loads((run / "export" / "model.json").read_text())["abstain"]
    unsure = out["probabilities"].max(axis=1) < told["below"]
    assert (out["abstain"] == (unsure | (out["distance"] > told["far"]))).all()


@pytest.mark.usefixtures("eager")
def test_a_run_without_a_confident_image_ends_with_scan(run, capsys):
    """It says so after one epoch, and hands over what there is."""
    options = ("--redo", "selflabel", "selflabel.threshold=0.9999999")
    assert scan_tf("run", "--run-dir", run, *options) == 4
    assert "no image was ever more confident than 0.9999999" in capsys.readouterr().err
    lines = (run / "selflabel" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines][-1] == 1
    report = json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))
    assert report["scan"] is not None
    assert report["selflabel"] is None
    assert (run / "export" / "saved_model.pb").is_file()
    status = json.loads((run / "status" / "export.json").read_text(encoding="utf-8"))
    assert status["result"]["weights_of"] == "scan"


def test_a_version_for_tensorflow_serving(run, tmp_path):
    for version in ("1", "2"):
        assert scan_tf("export", "--run-dir", run, "--serving", tmp_path / "served") == 0
        assert (tmp_path / "served" / version / "saved_model.pb").is_file()
    assert sorted(p.name for p in (tmp_path / "served").iterdir()) == ["1", "2"]


def test_the_card_tells_of_the_model(run):
    assert scan_tf("name", run, "1=a|b") == 0
    card = (run / "export" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# Image classifier: images, 3 clusters\n")
    assert "| 1       | a\\|b" in card
    assert "| self-label " in card
    assert "on 9 images of the test split" in card
    assert "`abstain` is true where the highest probability is below" in card
    assert "(1 - cosine of the features)" in card


@pytest.fixture
def known(run) -> Path:
    """The run, whose pretext remembers the images that it was made of, as those of today do."""
    facts = dataclasses.asdict(ImageFacts.of(opened(run).train_images))
    found = records.read(run, "pretext")
    found = dataclasses.replace(found, result={**found.result, "image_facts": facts})
    records.write(run, "pretext", found)
    return run


def test_where_the_images_lie_makes_no_difference(run, capsys):
    Path("images").rename("moved")
    assert scan_tf("neighbors", "--run-dir", run, "data.path=moved", "data.strict=true") == 0
    assert "done before" in capsys.readouterr().out
    assert scan_tf("evaluate", "--run-dir", run, "--redo", "evaluate", "data.path=moved") == 0
    assert opened(run).config.data.path == "moved"
    assert opened(run).is_done("evaluate")
    (Path("moved") / "train" / "red" / "0.png").unlink()
    assert scan_tf("evaluate", "--run-dir", run, "--redo", "evaluate") == 2
    assert "1 of 24 are gone" in capsys.readouterr().err
    # A run of an earlier version knows its images by their path alone.
    (run / "status" / "images.npz").unlink()
    shutil.copytree("moved", "other")
    assert scan_tf("neighbors", "--run-dir", run, "data.path=other") == 2
    assert "data.path is" in capsys.readouterr().err


def test_an_export_needs_no_images_and_of_the_names_the_page_alone(known, capsys):
    shutil.rmtree("images")
    before = rows_of(known / "eval" / "assignments.csv")
    assert scan_tf("name", known, "0=owl") == 3
    shown = capsys.readouterr()
    assert "the images are not there: it is checked on noise" in shown.out
    assert "The names are stored, and in assignments.csv; the page" in shown.err
    assert names.read(opened(known)) == {0: "owl"}
    facts = json.loads((known / "export" / "model.json").read_text(encoding="utf-8"))
    assert facts["names"] == ["owl", "", ""]
    shutil.copytree(STORED / "images", "again")
    assert scan_tf("predict", known, "again/test", "--output", "out.csv") == 0
    assert [r["cluster"] for r in rows_of(Path("out.csv"))] == [r["cluster"] for r in before]
