"""`--minutes`: some steps are timed, epochs are chosen, and the choice is kept."""

from __future__ import annotations

import json
import time

import pytest
from tiny_runs import opened, write_config, write_splits

from scan_tf import config
from scan_tf.errors import ConfigError
from scan_tf.pipeline import timing
from scan_tf.pipeline.stage import TRAINED


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that has not begun, of which few steps are timed."""
    monkeypatch.setattr(timing, "_TIMED_S", 0.0)
    root = tmp_path / "run"
    root.mkdir()
    write_config(root / "config.yaml", write_splits(tmp_path / "images"), "selflabel.epochs=10")
    return opened(root)


def epochs_of(run):
    return [getattr(run.config, stage).epochs for stage in TRAINED]


def test_epochs_are_chosen_once(eager, run, monkeypatch, capsys):
    seen = []
    measure = timing.measure
    monkeypatch.setattr(timing, "measure", lambda *a: seen.append(measure(*a)) or seen[-1])
    timing.fit(run, 600, time.monotonic())
    # 60 images in batches of 16.
    (pretext,) = seen
    assert (pretext.step, pretext.total) == (0, 20 * 3)
    assert pretext.steps_per_second > 1
    chosen = epochs_of(run)
    assert chosen[0] > 30
    assert chosen[1] / chosen[0] == pytest.approx(12 / 20, rel=0.05)
    said = capsys.readouterr().out
    assert f"--minutes 10: pretext {chosen[0]} epochs, scan {chosen[1]} epochs, selflabel" in said
    assert "Planned: about 9 min in all, of which " in said
    # Nothing has been learnt yet.
    assert [path.name for path in run.root.iterdir()] == ["config.yaml"]

    run.write_config()
    (run.root / "status").mkdir(exist_ok=True)
    record = {"status": "interrupted", "wall_time_s": 1.0, "config": {}, "result": {}}
    (run.root / "status" / "pretext.json").write_text(json.dumps(record))
    again = opened(run.root, "scan.epochs=7")
    timing.fit(again, 60, time.monotonic())
    assert epochs_of(again) == chosen
    assert "the epochs stay as they were chosen: pretext" in capsys.readouterr().out


def test_too_few_minutes_are_refused(eager, run):
    with pytest.raises(ConfigError, match="--minutes: expected a number > 0, got -1."):
        timing.fit(run, -60, time.monotonic())
    with pytest.raises(ConfigError, match="--minutes: too few: one epoch of each stage"):
        timing.fit(run, 30, time.monotonic())


def test_a_run_without_epochs_to_choose_is_refused(run):
    tree = config.to_dict(run.config) | {
        "pretext": "pretrained",
        "scan": {"name": "kmeans"},
        "selflabel": {"epochs": 0},
    }
    run.config = config.from_dict(tree)
    with pytest.raises(ConfigError, match="--minutes: no stage of this run has epochs to choose"):
        timing.fit(run, 600, time.monotonic())
