from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from tiny_runs import opened, snapshot, write_config

from scan_tf.errors import ConfigError, StageError
from scan_tf.experiments import variants


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory in which every stage up to self-label says that it is done."""
    root = tmp_path / "run"
    root.mkdir()
    write_config(root / "config.yaml", tmp_path / "images")
    finish(opened(root), "pretext", "neighbors", "scan", "selflabel")
    return root


def finish(work, *stages: str) -> None:
    """Leave what a stage leaves, without computing it; the weights name the run."""
    for stage in stages:
        folder = work.folder(stage)
        (folder / "ckpt").mkdir(parents=True)
        (folder / "ckpt" / "state.npz").touch()
        (folder / "weights.npz").write_text(str(work.root), encoding="utf-8")
        (folder / "metrics.jsonl").touch()
        with work.working(stage):
            pass


def plan(run: Path, axes=None, *, seeds=None, **fixed) -> list[variants.Variant]:
    fixed = {key.replace("__", "."): value for key, value in fixed.items()}
    folder = run / "sweeps" / "name"
    return variants.plan(opened(run), folder, axes=axes or {}, fixed=fixed, seeds=seeds)


@pytest.mark.parametrize(
    ("text", "shared", "fixed", "axes"),
    [
        ("scan.epochs=10", [], {"scan.epochs": 10}, {}),
        ("scan.epochs=1,2", [], {}, {"scan.epochs": [1, 2]}),
        (" scan.epochs =1, 2,", [], {}, {"scan.epochs": [1, 2]}),
        ("scan.num_clusters=null,3", [], {}, {"scan.num_clusters": [None, 3]}),
        ("scan.freeze_backbone=true,false", [], {}, {"scan.freeze_backbone": [True, False]}),
        ("scan.augmentation=none,weak", [], {}, {"scan.augmentation": ["none", "weak"]}),
        ("scan.x=[a, b]", [], {"scan.x": ["a", "b"]}, {}),
        ("scan.x=[a, b],[c]", [], {}, {"scan.x": [["a", "b"], ["c"]]}),
        ("scan.x='a,b'", [], {"scan.x": "a,b"}, {}),
        ("scan.optimizer={name: sgd, lr: 1}", [], {"scan.optimizer": {"name": "sgd", "lr": 1}}, {}),
        ("scan.x=a]b", [], {"scan.x": "a]b"}, {}),
        ("scan.x=a=b", [], {"scan.x": "a=b"}, {}),
        ("scan.x=", [], {"scan.x": None}, {}),
        ("data.path=/a b/c", ["data.path=/a b/c"], {}, {}),
        ("runtime.progress=false", ["runtime.progress=false"], {}, {}),
        ("seed=1", ["seed=1"], {}, {}),
        ("seed=1,2", [], {}, {"seed": [1, 2]}),
    ],
)
def test_overrides_are_sorted_by_what_they_are_for(text, shared, fixed, axes):
    assert variants.parse([text]) == (shared, fixed, axes)


def test_the_last_override_of_a_key_counts():
    texts = ["scan.epochs=1,2", "neighbors.k=3", "scan.epochs=5", "neighbors.k=1,2"]
    assert variants.parse(texts) == ([], {"scan.epochs": 5}, {"neighbors.k": [1, 2]})


@pytest.mark.parametrize("text", ["scan.epochs", "=5", "scan.epochs=[1", "scan.epochs={a"])
def test_what_is_no_override_is_named(text):
    with pytest.raises(ConfigError, match="override '") as caught:
        variants.parse([text])
    assert text in str(caught.value)


def test_every_combination_has_every_seed_and_a_folder(run):
    before = snapshot(run)
    axes = {"scan.optimizer.lr": ["1e-3", 1], "scan.augmentation": ["weak", "none"]}
    planned = plan(run, axes, seeds=[3, 0, 3], scan__epochs=7)
    assert [str(p.root.relative_to(run / "sweeps" / "name")) for p in planned] == [
        f"scan.optimizer.lr={lr}+scan.augmentation={augmentation}/seed-{seed}"
        for lr in ("0.001", "1")
        for augmentation in ("weak", "none")
        for seed in (3, 0)
    ]
    last = planned[-1]
    assert str(last) == "scan.optimizer.lr=1 scan.augmentation=none seed 0"
    assert last.values == {"scan.optimizer.lr": 1.0, "scan.augmentation": "none"}
    assert (last.config.scan.epochs, last.config.scan.optimizer.lr) == (7, 1.0)
    assert [p.config.clustering_seed for p in planned] == [3, 0] * 4
    # All else is the parent's.
    parent = opened(run).config
    assert last.config.pretext == parent.pretext
    assert last.config.selflabel == parent.selflabel
    assert dataclasses.replace(last.config.scan.optimizer, lr=1e-3) == parent.scan.optimizer
    # Planning writes nothing.
    assert snapshot(run) == before
    assert not (run / "sweeps").exists()


def test_methods_of_a_stage_can_be_compared(run):
    # `threshold` stands in the parent's settings, and only its method knows it.
    points = plan(run, {"selflabel.name": ["confident", "fixmatch", "cdc"]})
    assert [p.config.selflabel.name for p in points] == ["confident", "fixmatch", "cdc"]
    assert {p.config.selflabel.epochs for p in points} == {12}
    assert points[0].config.selflabel.threshold == 0.4


def test_without_seeds_it_is_the_parents(run):
    work = opened(run, "clustering_seed=4")
    (only,) = variants.plan(work, run / "s", axes={}, fixed={}, seeds=None)
    assert only.config.clustering_seed == 4
    assert only.root == run / "s" / "seed-4"


def test_pictures_are_off_unless_they_are_asked_for(run):
    (quiet,) = plan(run)
    assert not quiet.config.evaluate.pictures
    assert not quiet.config.runtime.tensorboard
    assert quiet.config.evaluate.kmeans_restarts == 1
    (loud,) = plan(run, evaluate__pictures=True)
    assert loud.config.evaluate.pictures


def test_a_parent_that_was_profiled_has_variants_that_are_not(run):
    (quiet,) = variants.plan(
        opened(run, "runtime.profile=true"), run / "s", axes={}, fixed={}, seeds=None
    )
    assert not quiet.config.runtime.profile


def test_values_that_are_no_file_name_make_one(run):
    (point,) = plan(run, {"scan.optimizer": [{"name": "sgd", "lr": 0.1}]})
    assert point.config.scan.optimizer.name == "sgd"
    assert point.root.parent.name == "scan.optimizer=_name_sgd_lr_0.1_"


@pytest.mark.parametrize(
    ("axes", "parts"),
    [
        ({"pretext.epochs": [1, 2]}, ("pretext.epochs", "share one pretext")),
        ({"data.image_size": [8, 12]}, ("data.image_size", "share one pretext")),
        ({"model": ["a", "b"]}, ("model", "share one pretext")),
        ({"augment.flip": [0, 1]}, ("augment.flip", "share one pretext")),
        ({"runtime.dtype": ["auto"]}, ("runtime.dtype", "share one pretext")),
        ({"seed": [1]}, ("seed", "--seeds")),
        ({"clustering_seed": [1]}, ("clustering_seed", "--seeds")),
        ({"scan.epoch": [1]}, ("unknown key 'scan.epoch'", "'epochs'")),
        ({"scna.epochs": [1]}, ("unknown key 'scna'", "'scan'")),
        ({"neighbors.k.x": [1]}, ("neighbors.k.x", "k is a setting, not a section")),
        ({"scan.epochs": [1, 0]}, ("scan.epochs", "at least 1", "got 0")),
        ({"scan.epochs": [1, "x"]}, ("scan.epochs", "an integer", "'x'")),
    ],
)
@pytest.mark.parametrize("is_axis", [True, False])
def test_a_setting_that_cannot_vary_is_named(run, axes, parts, is_axis):
    before = snapshot(run)
    last = {key: values[-1] for key, values in axes.items()}
    how = {"axes": axes, "fixed": {}} if is_axis else {"axes": {}, "fixed": last}
    with pytest.raises(ConfigError) as caught:
        variants.plan(opened(run), run / "s", **how, seeds=None)
    for part in parts:
        assert part in str(caught.value)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("axes", "part"),
    [
        ({"scan.entropy_weight": [1, 1.0]}, "scan.entropy_weight=1: "),
        ({"scan.epochs": [5], "scan.optimizer.lr": [1, "1e0"]}, "scan.optimizer.lr=1: "),
    ],
)
def test_a_value_that_is_given_twice_is_named(run, axes, part):
    with pytest.raises(ConfigError, match="given twice") as caught:
        plan(run, axes)
    assert part in str(caught.value)


def test_a_seed_out_of_range_is_named(run):
    with pytest.raises(ConfigError, match="clustering_seed: must be at least 0, got -1"):
        plan(run, seeds=[-1])


def test_the_pretext_must_be_there(run):
    with pytest.raises(StageError, match="model.width is 4 there, 8 here"):
        variants.plan(opened(run, "model.width=8"), run / "s", axes={}, fixed={}, seeds=None)
    opened(run).redo("pretext")
    with pytest.raises(StageError, match="scan-tf pretext --run-dir"):
        plan(run)


def shared_with(variant: variants.Variant) -> dict[str, str]:
    """Stage -> the run that computed it, for the stages that are done."""
    return {
        stage: (variant.folder(stage) / "weights.npz").read_text(encoding="utf-8")
        for stage in ("pretext", "neighbors", "scan", "selflabel")
        if variant.is_done(stage)
    }


def test_equal_stages_are_linked(run):
    same, scan, neighbors = (
        plan(run, axes)[0] for axes in ({}, {"scan.entropy_weight": [1]}, {"neighbors.k": [2]})
    )
    for variant in (same, scan, neighbors):
        variant.share([run])
    parent = str(run)
    assert shared_with(same) == dict.fromkeys(("pretext", "neighbors", "scan", "selflabel"), parent)
    assert shared_with(scan) == {"pretext": parent, "neighbors": parent}
    assert shared_with(neighbors) == {"pretext": parent}
    weights = [work.folder("scan") / "weights.npz" for work in (opened(run), same)]
    assert os.path.samefile(*weights)
    assert not [*same.root.rglob("ckpt")]
    assert same.record("scan") == opened(run).record("scan")
    # Nor does deleting one touch the other.
    same.redo("scan")
    assert weights[0].exists()


def test_other_variants_share_as_well(run):
    axes = {"scan.epochs": [7], "selflabel.threshold": [0.1, 0.2]}
    first, second = plan(run, axes)
    roots = [run, first.root, second.root]
    first.share(roots)
    finish(first, "scan", "selflabel")
    second.share(roots)
    parent, mine = str(run), str(first.root)
    assert shared_with(second) == {"pretext": parent, "neighbors": parent, "scan": mine}


def test_what_has_begun_is_not_replaced(run):
    (variant,) = plan(run)
    with pytest.raises(KeyboardInterrupt), variant.working("scan"):
        raise KeyboardInterrupt
    variant.share([run])
    assert shared_with(variant).keys() == {"pretext", "neighbors"}
    assert variant.record("scan").status == "interrupted"


def test_a_cut_off_link_is_made_again(run):
    (variant,) = plan(run)
    variant.folder("scan").mkdir(parents=True)
    (variant.folder("scan") / "weights.npz").write_text("half", encoding="utf-8")
    assert not variant.is_done("scan")
    variant.share([run])
    assert shared_with(variant)["scan"] == str(run)


def test_without_hard_links_files_are_copied(run, monkeypatch):
    def link(*_):
        raise OSError

    monkeypatch.setattr(os, "link", link)
    (variant,) = plan(run)
    variant.share([run])
    assert shared_with(variant)["selflabel"] == str(run)
    weights = [work.folder("scan") / "weights.npz" for work in (opened(run), variant)]
    assert not os.path.samefile(*weights)


def test_results_of_other_settings_are_not_mixed_in(run):
    (variant,) = plan(run, scan__epochs=7)
    variant.share([run])
    finish(variant, "scan")
    with pytest.raises(StageError) as caught:
        plan(run, scan__epochs=8)
    assert "holds results of other settings" in str(caught.value)
    assert "scan.epochs is 7 there, 8 here" in str(caught.value)
    assert "--name" in str(caught.value)
    plan(run, scan__epochs=7)
