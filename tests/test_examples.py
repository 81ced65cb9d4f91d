"""Every file of examples/ runs; two of them in the fast tests, on fewer images."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from sklearn.utils import Bunch

from scan_tf.methods import catalog

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_there_is_an_example_of_every_pretext():
    assert set(catalog.available("pretext")) <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_how_it_is_run(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert f"    python examples/{name}.py\n" in text
    assert text.count("\n") < 80


@pytest.mark.parametrize("name", ["own_features"])
def test_an_example_runs_on_few_images(name, eager, monkeypatch, capsys):
    digits = sklearn.datasets.load_digits()
    few = {key: digits[key][:80] for key in ("images", "data", "target")}
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda **_: Bunch(**few))
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    share = float(re.findall(r"([\d.]+)%", said)[-1])
    assert 10 < share <= 100, said
    assert np.isfinite(share)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    assert not list(tmp_path.iterdir()), "it leaves something behind"
