"""What a later stage would refuse is refused before the first one learns."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from small_tasks import PLAIN
from tiny_runs import CONFIG, scan_tf, write_config, write_splits

from scan_tf import config
from scan_tf.data import from_array
from scan_tf.errors import ConfigError, ScanError, StageError
from scan_tf.pipeline import stages

COUNT = 48


@pytest.fixture
def run(tmp_path):
    """A run over 48 images, as far as it is looked at; its config can be replaced."""
    return types.SimpleNamespace(
        config=config.from_dict({**CONFIG, "data": {}}),
        train_images=from_array(np.zeros((COUNT, 8, 8), np.uint8)),
        facts=types.SimpleNamespace(num_classes=2, count=COUNT),
        num_clusters=2,
        device=PLAIN,
        images=lambda split: None,
        folder=lambda stage: tmp_path / stage,
    )


def with_settings(run, *overrides):
    tree = config.to_dict(run.config)
    for text in overrides:
        key, value = config.split_override(text)
        section, _, name = key.partition(".")
        tree[section][name] = int(value) if value.isdecimal() else value
    run.config = config.from_dict(tree)
    return run


def test_what_fits_is_not_refused(run):
    stages.check(run)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selflabel.batch_size=1000"], "selflabel.batch_size: 1000 is more than the 48 images"),
        (
            ["scan.selection=train", "scan.batch_size=64"],
            "scan.batch_size: 64 is more than the 48 images",
        ),
        (
            ["scan.selection=heldout", "scan.batch_size=48"],
            "scan.batch_size: 48 is more than the 43 images",
        ),
        (
            ["scan.selection=heldout", "neighbors.k_validation=5"],
            "neighbors.k_validation = 5 needs at least 6 images, got 5",
        ),
        (["neighbors.k=60"], "neighbors.k = 60 needs at least 61 images, got 48"),
        (["scan.selection=test"], "scan.selection: 'test', but 'folder' has no test split"),
        (["scan.augmentation=views.mine"], "scan.augmentation 'views.mine' cannot be imported"),
        (["selflabel.augmentation=math.none"], "selflabel.augmentation 'math.none' cannot be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_a_later_stage_refuses(run, overrides, message):
    run.config = config.from_dict(config.to_dict(run.config) | {"data": {"name": "folder"}})
    with pytest.raises(ScanError, match=f"^{message}"):
        stages.check(with_settings(run, *overrides))


def test_a_package_that_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(ConfigError, match="^neighbors.index: 'hnsw' needs the package hnswlib"):
        stages.check(with_settings(run, "neighbors.index=hnsw"))


def test_an_export_that_would_replace_something_else(run):
    folder = run.folder("export")
    folder.mkdir()
    stages.check(run)
    (folder / "mine.txt").touch()
    with pytest.raises(StageError, match="export: holds something that is no SavedModel"):
        stages.check(run)


def test_the_program_refuses_before_the_pretext(tmp_path, capsys):
    path = write_config(tmp_path / "tiny.yaml", write_splits(tmp_path / "images"))
    arguments = ["run", "--config", path, "--run-dir", tmp_path / "run", "neighbors.k=60"]
    assert scan_tf(*arguments) == 2
    said = capsys.readouterr()
    assert "neighbors.k = 60 needs at least 61 images, got 60" in said.err
    assert "pretext:" not in said.out
    assert not (tmp_path / "run").exists()
