from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_tasks
from small_tasks import loader, trainer, values
from tiny_runs import copy, opened, weights

from scan_tf.config import OptimizerConfig
from scan_tf.errors import DataError, StageError
from scan_tf.experiments import packs
from scan_tf.training import checkpoint

OPTIMIZERS = {
    "sgd": OptimizerConfig("sgd", lr=0.1),
    "nesterov": OptimizerConfig("sgd", lr=0.1, nesterov=True),
    "adam": OptimizerConfig("adam", lr=1e-3),
}


def carried(run: Path, target: Path, **options) -> Path:
    packs.pack(run, target.with_suffix(".pack"))
    packs.unpack([target.with_suffix(".pack")], target, **options)
    return target


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {k: file[k] for k in file.files}


def begin(run: Path, stage: str) -> Path:
    """Make a stage of a finished run one that was interrupted."""
    path = run / "status" / f"{stage}.json"
    record = json.loads(path.read_text(encoding="utf-8")) | {"status": "interrupted"}
    path.write_text(json.dumps(record), encoding="utf-8")
    for later in ("selflabel", "evaluate", "export"):
        if later != stage:
            opened(run).redo(later)
    return run


def test_a_finished_run_travels_without_what_can_be_made_again(finished, tmp_path):
    run = carried(finished, tmp_path / "run")
    for stage in ("pretext", "scan", "selflabel"):
        before, after = weights(finished, stage), weights(run, stage)
        assert before.keys() == after.keys()
        assert all(before[k].tobytes() == after[k].tobytes() for k in before)
    stages = ("pretext", "neighbors", "scan", "selflabel", "evaluate")
    assert names(run) == {
        *("config.yaml", "environment.json", "eval/report.json", "neighbors/train.npz"),
        *("pretext/weights.npz", "scan/weights.npz", "selflabel/weights.npz", "scan/best.json"),
        *(f"{s}/metrics.jsonl" for s in ("pretext", "scan", "selflabel")),
        *(f"status/{s}.json" for s in stages),
    }
    assert all(opened(run).is_done(stage) for stage in stages)
    assert not opened(run).is_done("export")


def test_a_stage_that_has_begun_travels_with_its_state(finished, tmp_path):
    begun = begin(copy(finished, tmp_path / "begun"), "scan")
    run = carried(begun, tmp_path / "run")
    assert {n for n in names(run) if n.startswith("scan/")} == {
        *("scan/best.npz", "scan/ckpt/state.npz", "scan/metrics.jsonl", "scan/best.json"),
    }
    before, after = (arrays(r / "scan" / "ckpt" / "state.npz") for r in (begun, run))
    assert before.keys() == after.keys()
    rounded = packs.moving_averages(before)
    assert {k for k in before if before[k].tobytes() != after[k].tobytes()} <= set(rounded)
    for key in rounded:
        assert after[key].dtype == np.float32
        assert (np.abs(after[key] - before[key]) <= 2.0**-8 * np.abs(before[key])).all()
    assert any((after[k] != before[k]).any() for k in rounded)
    best = (arrays(r / "scan" / "best.npz") for r in (begun, run))
    np.testing.assert_equal(*best)


def test_heads_that_are_warm_travel_without_their_state(finished, tmp_path):
    begun = begin(copy(finished, tmp_path / "begun"), "scan")
    shutil.copytree(begun / "scan" / "ckpt", begun / "scan" / "heads" / "ckpt")
    run = carried(begun, tmp_path / "cold")
    assert (run / "scan" / "heads" / "ckpt" / "state.npz").exists()
    shutil.copy(begun / "scan" / "weights.npz", begun / "scan" / "heads" / "weights.npz")
    run = carried(begun, tmp_path / "warm")
    assert (run / "scan" / "heads" / "weights.npz").exists()
    assert not (run / "scan" / "heads" / "ckpt").exists()


def test_repetitions_travel_with_their_scores_or_their_state(finished, tmp_path):
    begun = copy(finished, tmp_path / "begun")
    seeds = begun / "sweeps" / "seeds"
    for seed in (1, 2):
        copy(finished, seeds / f"seed-{seed}")
    (seeds / "scores.json").write_text("{}")
    begin(seeds / "seed-2", "selflabel")
    run = carried(begun, tmp_path / "run")
    done, other = (run / "sweeps" / "seeds" / f"seed-{seed}" for seed in (1, 2))
    assert not any(n.endswith(".npz") for n in names(done))
    assert (done / "eval" / "report.json").exists()
    assert opened(done).is_done("evaluate")
    # They take pretext and neighbours from the run again.
    assert {n for n in names(other) if n.endswith(".npz")} == {
        "scan/weights.npz",
        "selflabel/ckpt/state.npz",
    }
    assert {n for n in names(other) if n.startswith("status/")} == {
        "status/scan.json",
        "status/selflabel.json",
    }
    assert (run / "sweeps" / "seeds" / "scores.json").exists()


def test_a_later_pack_of_a_run_shares_what_is_finished(finished, tmp_path):
    begun = begin(copy(finished, tmp_path / "begun"), "selflabel")
    _, *first = packs.pack(begun, tmp_path / "pack", part_mib=0.02)
    state = arrays(begun / "selflabel" / "ckpt" / "state.npz")
    state["00001"] = state["00001"] + 1
    np.savez(begun / "selflabel" / "ckpt" / "state.npz", **state)
    _, *later = packs.pack(begun, tmp_path / "pack", part_mib=0.02)
    shared = {p.name for p in first} & {p.name for p in later}
    done = sum((begun / s / "weights.npz").stat().st_size for s in ("pretext", "scan"))
    assert len(shared) >= 0.7 * done / (0.02 * 2**20)
    assert {p.name for p in first} - shared


def test_the_images_may_lie_elsewhere(finished, tmp_path):
    run = carried(finished, tmp_path / "run", data_path="/other/images")
    work = opened(run)
    assert work.config.data.path == "/other/images"
    assert work.is_done("evaluate")
    stay = opened(carried(finished, tmp_path / "stay"))
    assert stay.config.data.path == opened(finished).config.data.path


def test_what_is_there_is_not_overwritten(finished, tmp_path):
    packs.pack(finished, tmp_path / "pack")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(StageError, match="run: exists. Unpack into a new folder"):
        packs.unpack([tmp_path / "pack"], tmp_path / "run")
    assert names(tmp_path / "run") == {"mine.txt"}
    (tmp_path / "empty").mkdir()
    packs.unpack([tmp_path / "pack"], tmp_path / "empty")
    assert opened(tmp_path / "empty").is_done("evaluate")


def test_a_damaged_pack_leaves_nothing(finished, tmp_path):
    _, *parts = packs.pack(finished, tmp_path / "pack", part_mib=0.05)
    parts[-1].write_bytes(parts[-1].read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{parts[-1].name} is damaged"):
        packs.unpack([tmp_path / "pack"], tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["pack"]


def test_only_a_run_can_be_packed(tmp_path):
    with pytest.raises(StageError, match="no run directory; config.yaml is missing"):
        packs.pack(tmp_path, tmp_path / "pack")


def state(loop) -> list:
    return [loop.step, *loop.task.state, *loop.optimizer.state]


@pytest.mark.parametrize("name", small_tasks.NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_moving_averages_are_found_in_the_state_of_every_task(name, optimizer, tmp_path):
    task = small_tasks.make(name)
    loop = trainer(task, loader(task), tmp_path, optimizer=optimizer)
    saved = {f"{i:05d}": np.asarray(v) for i, v in enumerate(state(loop))}
    slots = [id(v) for slot in loop.optimizer.slots for v in slot]
    expected = [f"{i:05d}" for i, v in enumerate(state(loop)) if id(v) in slots]
    assert packs.moving_averages(saved | {"manifest": np.array("{}")}) == expected
    assert len(expected) == len(slots)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_next_step_after_a_journey_is_almost_the_same(optimizer, tmp_path, seeded):
    """Weights are equal before it, and after it differ by what the rounding allows."""
    task = small_tasks.make("simclr")
    source = loader(task)
    loop = trainer(task, source, tmp_path, optimizer=optimizer)
    for inputs in source.inputs(0, 3):
        loop.update(inputs)
    path = tmp_path / "run" / "pretext" / "ckpt" / "state.npz"
    checkpoint.save_state(path, state(loop), step=3, extra={"window": [], "hook": {}})
    (tmp_path / "run" / "config.yaml").write_text("name: x\n")
    after = carried(tmp_path / "run", tmp_path / "there") / "pretext" / "ckpt" / "state.npz"
    before = values(loop.optimizer.variables)
    slots = [values(slot) for slot in loop.optimizer.slots]
    results = []
    for file in (path, after):
        step, _ = checkpoint.restore_state(file, state(loop))
        np.testing.assert_equal(values(loop.optimizer.variables), before)
        loop.update(next(iter(source.inputs(step, step + 1))))
        results.append(values(loop.optimizer.variables))
    straight, resumed = results
    for i, (one, other) in enumerate(zip(straight, resumed, strict=True)):
        if optimizer.name == "sgd":
            # The velocity counts with 0.9, and 0.81 more where Nesterov looks ahead.
            factor = 0.81 if optimizer.nesterov else 0.9
            allowed = optimizer.lr * factor * 2.0**-8 * np.abs(slots[0][i])
        else:
            # At the fourth step; the root of v is off by half as much as v, and v only falls by
            # its decay.
            first, second = (1 - decay**4 for decay in (0.9, 0.999))
            old = 0.9 * np.abs(slots[0][i]) / first / np.sqrt(0.999 * slots[1][i] / second + 1e-30)
            allowed = 2.0**-8 * optimizer.lr * old + 1.01 * 2.0**-9 * np.abs(one - before[i])
        slack = 4 * np.finfo(np.float32).eps * (np.abs(one) + optimizer.lr)
        assert (np.abs(one - other) <= allowed + slack).all()
    assert any((a != b).any() for a, b in zip(straight, resumed, strict=True))
