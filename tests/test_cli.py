from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import copy, opened, scan_tf, snapshot, write_config, write_images, write_splits

from scan_tf.pipeline import stages

STAGES = ("pretext", "neighbors", "scan", "selflabel", "evaluate", "export")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_splits(tmp_path_factory.mktemp("images") / "all")


@pytest.fixture
def config(images, tmp_path) -> Path:
    return write_config(tmp_path / "tiny.yaml", images)


def error_of(capsys) -> str:
    """What was printed on stderr by the program: one line that starts with its name."""
    lines = capsys.readouterr().err.splitlines()
    mine = [line for line in lines if line.startswith("scan-tf: ")]
    assert len(mine) == 1, lines
    assert not any("Traceback" in line for line in lines)
    return "\n".join(lines[lines.index(mine[0]) :])


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from scan_tf import cli\n"
        "try:\n"
        "    cli.main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'yaml', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    assert "scan-tf" in done.stdout


def test_a_warning_is_its_sentence_whoever_sets_up_logging_later(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    assert scan_tf("configs") == 0
    capsys.readouterr()
    logging.basicConfig()  # as absl does, which TensorFlow brings
    logging.getLogger("scan_tf.somewhere").warning("mind %s", "the step")
    assert capsys.readouterr().err == "mind the step\n"


def test_every_stage_has_a_command_and_help(capsys):
    for command in ("run", *STAGES, "predict", "prepare"):
        with pytest.raises(SystemExit) as end:
            scan_tf(command, "--help")
        assert end.value.code == 0
        assert f"scan-tf {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["rum"], ["run", "--confg", "x.yaml"], ["scan", "--redo", "all"], ["predict", "run"]],
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        scan_tf(*arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: scan-tf")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("scan.epoch=3", ("unknown key 'scan.epoch'", "'epochs'")),
        ("scna.epochs=3", ("unknown key 'scna'", "'scan'")),
        ("scan.epochs=many", ("scan.epochs", "an integer", "'many'")),
        ("scan.epochs=0", ("scan.epochs", "at least 1", "got 0")),
        ("runtime.dtype=float8", ("runtime.dtype", "'float8'", "mixed_bfloat16")),
        ("pretext.name=simclar", ("pretext.name", "'simclar'", "'simclr'")),
        ("data.name=digit", ("data.name", "'digit'", "'digits'")),
        ("pretext.batch_size=61", ("pretext.batch_size", "61", "60 images")),
        ("scan.num_clusters=61", ("scan.num_clusters", "61", "2 to 60")),
        ("epochs", ("'epochs'", "key=value")),
    ],
)
def test_a_bad_setting_is_named(override, parts, config, tmp_path, capsys):
    assert scan_tf("run", "--config", config, "--run-dir", tmp_path / "run", override) == 2
    error = error_of(capsys)
    assert error.count("\n") == 0
    for part in parts:
        assert part in error


def test_a_corrected_setting_is_not_another_config(config, tmp_path, capsys):
    run = tmp_path / "run"
    command = ("pretext", "--config", config, "--run-dir", run)
    for batch_size in (61, 62):
        assert scan_tf(*command, f"pretext.batch_size={batch_size}") == 2
        assert f"pretext.batch_size: {batch_size}" in error_of(capsys)
    assert opened(run).record("pretext").status == "interrupted"


def test_a_missing_config_is_named(tmp_path, capsys):
    assert scan_tf("run", "--config", tmp_path / "no.yaml") == 2
    assert str(tmp_path / "no.yaml") in error_of(capsys)
    assert scan_tf("run") == 2
    assert "--config" in error_of(capsys)
    assert scan_tf("scan", "--run-dir", tmp_path / "run") == 2
    error = error_of(capsys)
    assert str(tmp_path / "run" / "config.yaml") in error
    assert "--config" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", ["file", "file/run", "/proc/run"])
def test_a_run_directory_that_cannot_be_written_is_named(path, config, tmp_path, capsys):
    if path.startswith("/") and not Path(path).parent.is_dir():
        pytest.skip("no /proc, where nobody may write")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert scan_tf("run", "--config", config, "--run-dir", tmp_path / path) == 2
    error = error_of(capsys)
    assert str(tmp_path / path) in error
    assert "--run-dir" in error
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (("data.path={tmp}/nowhere",), ("nowhere", "data.path")),
        (("data.name=cifar10", "data.path={tmp}"), ("cifar10", "scan-tf prepare")),
    ],
)
def test_missing_data_ends_with_3(overrides, parts, config, tmp_path, capsys):
    overrides = [o.format(tmp=tmp_path) for o in overrides]
    assert scan_tf("run", "--config", config, "--run-dir", tmp_path / "run", *overrides) == 3
    error = error_of(capsys)
    for part in parts:
        assert part in error


def test_a_folder_without_images_is_named(config, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    override = f"data.path={tmp_path / 'empty'}"
    assert scan_tf("run", "--config", config, "--run-dir", tmp_path / "run", override) == 2
    assert f"{tmp_path / 'empty'}: no images" in error_of(capsys)


def test_few_images_without_labels_need_a_number_of_clusters(config, tmp_path, capsys):
    write_images(tmp_path / "one" / "only", 20, channel=0, seed=0)
    override = f"data.path={tmp_path / 'one'}"
    assert scan_tf("run", "--config", config, "--run-dir", tmp_path / "run", override) == 2
    said = error_of(capsys)
    assert "scan.num_clusters: auto takes at least 40 images, got 20." in said
    assert "such as scan.num_clusters=3" in said
    assert not (tmp_path / "run" / "pretext").exists()


def test_splits_that_are_not_there_are_named(config, tmp_path, capsys):
    write_images(tmp_path / "all" / "a", 20, channel=0, seed=0)
    write_images(tmp_path / "all" / "b", 20, channel=1, seed=0)
    command = ("run", "--config", config, "--run-dir", tmp_path / "run")
    overrides = (f"data.path={tmp_path / 'all'}", "evaluate.split=test")
    assert scan_tf(*command, *overrides) == 2
    assert "evaluate.split: 'folder' has no split 'test'" in error_of(capsys)


def test_unreadable_images_are_refused_when_strict(config, tmp_path, capsys):
    write_images(tmp_path / "all" / "a", 20, channel=0, seed=0)
    write_images(tmp_path / "all" / "b", 20, channel=1, seed=0)
    (tmp_path / "all" / "b" / "broken.png").write_bytes(b"no image")
    overrides = (f"data.path={tmp_path / 'all'}", "data.strict=true")
    assert scan_tf("run", "--config", config, "--run-dir", tmp_path / "run", *overrides) == 2
    error = error_of(capsys)
    assert "1 of 41 images" in error
    assert str(tmp_path / "all" / "b" / "broken.png") in error
    assert "data.strict" in error


@pytest.fixture
def terminal():
    """SIGINT as a program in a terminal gets it; one started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (lambda *_: signal.raise_signal(signal.SIGINT), 130),
        (lambda *_: os.kill(os.getpid(), signal.SIGTERM), 143),
    ],
)
def test_an_interruption_between_two_steps_is_told(
    stop, code, config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(stages, "run_stage", stop)
    command = ("pretext", "--config", config, "--run-dir", tmp_path / "run")
    assert scan_tf(*command) == code
    assert "same command" in error_of(capsys)


def test_a_full_disk_is_told_in_one_line(config, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "weights.npz")

    monkeypatch.setattr(stages, "run_stage", full)
    assert scan_tf("pretext", "--config", config, "--run-dir", tmp_path / "run") == 2
    assert "are needed there (No space left on device; " in error_of(capsys)


def test_a_finished_run_is_left_as_it_is(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    before = snapshot(run)
    assert scan_tf("run", "--run-dir", run) == 0
    out = capsys.readouterr().out
    for stage in STAGES:
        assert f"{stage}: done before" in out
    assert str(run / "eval") in out
    assert str(run / "export") in out
    assert snapshot(run) == before


def test_another_config_is_refused_with_the_keys_that_differ(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    before = snapshot(run)
    others = ("scan.entropy_weight=2", "scan.optimizer.lr=0.5", "selflabel.threshold=0.9")
    assert scan_tf("run", "--run-dir", run, *others) == 2
    error = error_of(capsys)
    assert f"{run / 'scan'} was made with another config" in error
    assert "scan.entropy_weight is 5.0 there, 2.0 here" in error
    assert "scan.optimizer.lr is 0.001 there, 0.5 here" in error
    assert "--redo scan" in error
    assert scan_tf("evaluate", "--run-dir", run, "data.image_size=12") == 2
    assert "data.image_size is 8 there, 12 here" in error_of(capsys)
    # Nor does --redo delete anything before it is known that the stages before it fit.
    assert scan_tf("run", "--run-dir", run, "--redo", "selflabel", *others) == 2
    assert "--redo scan" in error_of(capsys)
    assert snapshot(run) == before


def test_settings_that_change_no_number_may_change(finished, tmp_path, capsys):
    run = copy(finished, tmp_path / "run")
    assert scan_tf("run", "--run-dir", run, "runtime.log_every=7", "name=other") == 0
    assert "export: done before" in capsys.readouterr().out


def test_predict_writes_a_row_for_every_image(finished, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    for channel in range(3):
        write_images(mixed / str(channel), 4, channel, seed=9)
    Image.new("RGB", (30, 20), (200, 40, 40)).save(tmp_path / "single.jpg")
    (mixed / "broken.png").write_bytes(b"no image")
    output = tmp_path / "preds.csv"
    assert scan_tf("predict", finished, mixed, tmp_path / "single.jpg", "--output", output) == 0
    assert str(output) in capsys.readouterr().out
    with output.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "cluster", "confidence", "name", "abstain"]
    files = sorted(p for p in mixed.rglob("*.png") if p.name != "broken.png")
    assert [row[0] for row in rows] == [*map(str, files), str(tmp_path / "single.jpg")]
    assert {int(row[1]) for row in rows} <= {0, 1, 2}
    assert all(1 / 3 <= float(row[2]) <= 1 for row in rows)


def test_predict_tells_what_is_missing(finished, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    assert scan_tf("predict", tmp_path, tmp_path / "image.png") == 2
    assert f"scan-tf export --run-dir {tmp_path}" in error_of(capsys)
    output = ("--output", tmp_path / "preds.csv")
    assert scan_tf("predict", finished, tmp_path / "no.png", *output) == 3
    assert "no.png" in error_of(capsys)
    (tmp_path / "bad.png").write_bytes(b"no image")
    both = (tmp_path / "image.png", tmp_path / "bad.png")
    assert scan_tf("predict", finished, *both, "--strict", *output) == 2
    assert "bad.png" in error_of(capsys)
    assert not (tmp_path / "preds.csv").exists()


def test_the_run_directory_says_how_it_was_made(finished):
    written = json.loads((finished / "environment.json").read_text(encoding="utf-8"))
    assert written["versions"].keys() >= {"tensorflow", "keras", "numpy"}
    assert (written["dtype"], written["jit_step"]) == ("float32", False)
    settings = opened(finished).config
    assert (settings.name, settings.scan.epochs, settings.scan.entropy_weight) == ("tiny", 12, 5)


def test_overrides_may_stand_anywhere(config, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(stages, "run_stage", lambda *arguments: started.append(arguments))
    where = ("--run-dir", tmp_path / "run")
    assert scan_tf("scan", "seed=5", "--config", config, "name=x", *where, "scan.epochs=7") == 0
    [(work, stage)] = started
    assert stage == "scan"
    assert (work.config.seed, work.config.name, work.config.scan.epochs) == (5, "x", 7)
