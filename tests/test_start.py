"""The program before it computes: recipes, settings, refusals without TensorFlow, a quiet start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import scan_tf

from scan_tf import lazy
from scan_tf.data import sources
from scan_tf.errors import ConfigError
from scan_tf.settings import reading

CONFIGS = Path(__file__).parents[1] / "configs"


def test_every_recipe_is_listed_with_a_line(capsys):
    assert scan_tf("configs") == 0
    listed = capsys.readouterr().out.split("\n\n")[0].splitlines()
    lines = dict(line.split("  ", 1) for line in listed)
    assert [name.strip() for name in lines] == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert all(re.match(r" *[A-Z].{20,}\.$", text) for text in lines.values())


def test_a_config_is_a_file_or_a_recipe(tmp_path, monkeypatch):
    known = reading.recipes()["digits_simclr"]
    assert reading.find_config("digits_simclr") == known
    assert reading.find_config("digits_simclr.yaml") == known
    monkeypatch.chdir(tmp_path)
    Path("digits_simclr").write_text("seed: 1")
    assert reading.find_config("digits_simclr") == Path("digits_simclr")
    with pytest.raises(ConfigError, match="no file and no recipe 'digits_simcl'. Did you mean 'di"):
        reading.find_config("digits_simcl")
    with pytest.raises(ConfigError, match="no file and no recipe 'elsewhere/digits_rotnet'. "):
        reading.find_config("elsewhere/digits_rotnet")


def test_settings_are_listed_by_section_and_method(capsys):
    assert scan_tf("settings", "scan.optimizer") == 0
    text = capsys.readouterr().out
    assert "scan.optimizer.lr = 0.0001    (number > 0)\n    learning rate" in text
    assert "scan.epochs" not in text
    assert scan_tf("settings", "pretext", "pretext.name=moco") == 0
    text = capsys.readouterr().out
    assert "pretext.queue_size = null" in text
    assert re.search(r"pretext.name = moco    \(.*moco \| .*simclr.*, or a dotted name\)", text)
    assert scan_tf("settings", "seed") == 0
    assert capsys.readouterr().out.startswith("seed = 0    (integer 0 to 2147483647)")
    assert scan_tf("settings", "skan") == 2
    assert "no 'skan'. Did you mean 'scan'?" in capsys.readouterr().err


def test_the_page_of_settings_is_up_to_date(capsys):
    assert scan_tf("settings", "--markdown") == 0
    written = capsys.readouterr().out
    there = (CONFIGS.parent / "docs" / "settings.md").read_text(encoding="utf-8")
    assert there == written, "Run: scan-tf settings --markdown > docs/settings.md"
    for name in ("scan.optimizer.lr", "pretext.queue_size", "scan.beta", "selflabel.threshold"):
        assert f"\n| `{name}` | `" in written
    assert "|  |" not in written  # a setting without a meaning


FOLDER = "folder_from_scratch"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--config", "no.yaml"], 2, "no file and no recipe 'no.yaml'"),
        (["run", "--config", "digits_simclr", "scan.epoch=3"], 2, "unknown key 'scan.epoch'"),
        (["run", "--config", "digits_simclr", "scan.epochs=0"], 2, "scan.epochs: must be at least"),
        (["run", "--config", "cifar10_simclr", "data.path=nowhere"], 3, "nowhere: no such folder"),
        (["run", "--config", "cifar10_simclr", "data.path=."], 3, "'cifar10' is not prepared"),
        (["run", "--config", "digits_simclr", "data.name=digts"], 2, "Did you mean 'digits'?"),
        (["run", "--config", "digits_simclr", "data.name=mnits"], 2, "Did you mean 'mnist'?"),
        (["run", "--config", "digits_simclr", "data.name=mnist"], 3, "'mnist' is not prepared"),
        (["run", "--config", FOLDER, "data.path=nowhere"], 3, "nowhere: no such folder"),
        (["run", "--config", FOLDER, "data.path=."], 2, "no images"),
        (["run", "--config", FOLDER], 2, "data.path: data.name 'folder' needs it"),
        (["pretext", "--run-dir", "nowhere"], 2, "config.yaml: no such file"),
        (["status", "nowhere"], 2, "config.yaml: no such file"),
        (["predict", "nowhere", "image.png"], 3, "nowhere: no such folder"),
        (["prepare", "--from", "nowhere", "--as", "cifar10"], 3, "nowhere: no such folder"),
    ],
)
def test_a_refusal_loads_no_tensorflow(arguments, code, message, tmp_path):
    program = (
        "import sys\nfrom scan_tf import cli\ncode = cli.main(sys.argv[1:])\n"
        "sys.exit('loaded' if {'tensorflow', 'keras', 'sklearn'} & set(sys.modules) else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CONFIGS.parent), "TFDS_DATA_DIR": "nowhere"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not list(tmp_path.iterdir())


def test_data_that_is_there_is_not_refused(tmp_path):
    sources.check(sources.DataConfig("digits"))
    # A set of somebody's own is known by what is prepared of it.
    for name in ("cifar10", "mine"):
        (tmp_path / name / "3.0.2").mkdir(parents=True)
        (tmp_path / name / "3.0.2" / "dataset_info.json").touch()
        sources.check(sources.DataConfig(name, str(tmp_path)))
    sources.check(sources.DataConfig("tfds:mine:3.0.2", str(tmp_path)))
    with pytest.raises(ConfigError, match="no data set 'other', and nothing is prepared in "):
        sources.check(sources.DataConfig("other", str(tmp_path)))


def test_what_tensorflow_says_at_its_start_is_kept_back_and_all_else_is_not():
    said = [
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1 1 port.cc:153] oneDNN custom operations are on. You may see",
        "I0000 00:00:1 1 cudart_stub.cc:31] Could not find cuda drivers on your machine",
        "E0000 00:00:1 1 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error",
        "F0000 00:00:1 1 cpu.cc:1] The TensorFlow library was compiled to use AVX instructions",
        "Traceback (most recent call last):",
    ]
    program = (
        "import os, sys\nfrom scan_tf import lazy\n"
        "with lazy._filtered_stderr():\n    os.write(2, sys.argv[1].encode())\n"
        "    os.abort() if sys.argv[2:] else None\n"
        "os.write(2, b'oneDNN custom operations are on, said later')"
    )
    command = [sys.executable, "-c", program, "\n".join(said) + "\n"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.splitlines() == [*said[-2:], "oneDNN custom operations are on, said later"]
    # Also where TensorFlow ends the process.
    ended = subprocess.run([*command, "abort"], capture_output=True, text=True)
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[:2] == said[-2:]


def test_stderr_is_as_it_was_after_the_start():
    before = os.fstat(2)
    with pytest.raises(ValueError, match="inside"), lazy._filtered_stderr():
        raise ValueError("inside")
    assert (os.fstat(2).st_ino, os.fstat(2).st_dev) == (before.st_ino, before.st_dev)
