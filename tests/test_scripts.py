from __future__ import annotations

import importlib.util
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import copy, own_handler, weights

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
COMMANDS = {"prepare_tfds": "scan-tf prepare", "seeds": "seeds.py"}


def seeds_main():
    """The function `main` of scripts/seeds.py."""
    spec = importlib.util.spec_from_file_location("seeds_script", SCRIPTS / "seeds.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main


@pytest.mark.parametrize("name", NAMES)
def test_a_script_shows_its_help_and_imports_no_tensorflow(name):
    # Python lists on stderr what it imports.
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {COMMANDS.get(name, f'scan-tf {name}')} ")
    imported = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "scan_tf.cli" in imported
    assert not {"tensorflow", "keras", "numpy"} & imported


@pytest.mark.usefixtures("eager")
def test_seeds_clusters_again_from_one_pretext(finished, tmp_path, monkeypatch):
    run = copy(finished, tmp_path / "run")
    # Heads on features that are computed once: the fastest clustering there is.
    fast = ("scan.freeze_backbone=true", "scan.cached_views=1", "scan.epochs=5")
    argv = ["seeds.py", str(run), *fast, "selflabel.epochs=1", "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", argv)
    with own_handler():
        assert seeds_main()() == 0
    scores = json.loads((run / "seeds" / "scores.json").read_text(encoding="utf-8"))
    assert scores["seeds"] == [0, 1]
    reports = [
        json.loads((run / "seeds" / seed / "eval" / "report.json").read_text(encoding="utf-8"))
        for seed in "01"
    ]
    for stage in ("scan", "selflabel"):
        for key in ("acc", "nmi", "ari"):
            values = [report[stage][key] for report in reports]
            assert scores[stage][key]["values"] == values
            assert scores[stage][key]["mean"] == pytest.approx(statistics.mean(values))
            assert scores[stage][key]["std"] == pytest.approx(np.std(values))
    for stage, same in (("pretext", True), ("scan", False)):
        first, second = (weights(run / "seeds" / seed, stage) for seed in "01")
        equal = [np.array_equal(first[k], second[k]) for k in first if "heads" in k or same]
        assert all(equal) if same else not any(equal)


def test_seeds_needs_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seeds.py", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        seeds_main()()
    assert end.value.code == 2
    assert f"{tmp_path}: has no neighbors yet" in capsys.readouterr().err
