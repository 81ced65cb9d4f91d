"""The README's examples of methods and of a network work as they stand, from outside."""

from __future__ import annotations

import pathlib
import re
import sys

import numpy as np
import pytest
import tiny_runs

from scan_tf import config
from scan_tf.errors import ConfigError
from scan_tf.storage.files import read_metrics

README = pathlib.Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(
    r"```python\n(# my_package/(\w+)\.py\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
)


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    """A package with every example of the README in a file of its own, where Python finds it."""
    folder = tmp_path / "site" / "my_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for text, name in EXAMPLES:
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


def test_there_is_an_example_of_each_kind():
    assert [name for _, name in EXAMPLES] == ["headstand", "quadratic", "sharpen", "flat"]


def test_the_examples_run_through_all_stages_and_predict(my_package, tmp_path):
    images, run = tiny_runs.write_splits(tmp_path / "images"), tmp_path / "run"
    run.mkdir()
    tiny_runs.write_config(
        run / "config.yaml",
        images,
        "pretext.name=my_package.headstand",
        "pretext.smoothing=0.1",
        "pretext.epochs=2",
        "scan.name=my_package.quadratic",
        "scan.balance=2.0",
        "scan.epochs=2",
        "selflabel.name=my_package.sharpen",
        "selflabel.epochs=2",
        "model.backbone=my_package.flat",
    )
    assert tiny_runs.scan_tf("run", "--run-dir", run) == 0
    for stage, metric in (("pretext", "accuracy"), ("scan", "distance"), ("selflabel", "entropy")):
        rows = read_metrics(run / stage / "metrics.jsonl")
        assert rows
        assert all(np.isfinite(row[metric]) for row in rows)
    output = tmp_path / "predicted.csv"
    assert tiny_runs.scan_tf("predict", run, images, "--output", output) == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 1 + sum(
        len(tiny_runs.CLASSES) * count for count in tiny_runs.PER_CLASS.values()
    )


def test_the_settings_of_an_example_are_checked(my_package, tmp_path):
    with pytest.raises(ConfigError, match="^pretext.smoothing: must be at most 0.5, got 0.6.$"):
        config.from_dict({"pretext": {"name": "my_package.headstand", "smoothing": 0.6}})
    with pytest.raises(ConfigError, match="^unknown key 'scan.entropy_weight'"):
        config.from_dict({"scan": {"name": "my_package.quadratic", "entropy_weight": 5.0}})


def test_readme_names_existing_recipes():
    text = README.read_text(encoding="utf-8")
    names = re.findall(r"--config ([a-z]\w*_\w+)|recipe=\"(\w+)\"", text)
    known = {path.stem for path in (README.parent / "configs").glob("*.yaml")}
    assert {one or other for one, other in names} <= known
    assert len(names) >= 2
