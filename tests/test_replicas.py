"""Steps on replicas equal those of one device; in processes of their own, see replica_runs.py.

The fast form compares a step of four tasks and a resumed training; `make test-distributed` compares
every task on two and on four replicas, twenty compiled steps, and whole runs of the program.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import small_tasks
import tensorflow as tf
import tiny_runs
import worker_processes

from scan_tf import machine, replicas
from scan_tf.config import RuntimeConfig
from scan_tf.errors import ConfigError
from scan_tf.features import neighbors
from scan_tf.pipeline import fitting, learning
from scan_tf.replicas import ALONE, Replicas

TESTS = pathlib.Path(__file__).parent
# Those that get images: heads over cached features are trained on one device.
CACHED = ("scan_cached", "selflabel_cached", "temi")
SPREAD = [n for n in small_tasks.NAMES if n not in (*CACHED, "moco_symmetric")]
SHORT = ["moco"]


def compared(*arguments, commands=()):
    """The rows that replica_runs.py prints."""
    command = [sys.executable, TESTS / "replica_runs.py", *commands, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=with_path())
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def with_path():
    """The environment of a process that finds this checkout."""
    paths = [str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture(scope="module")
def short():
    """What the fast tests look at, by one process."""
    return compared("--names", *SHORT, "--plain", commands=("step", "resume"))


def check_step(row):
    scale = max(1.0, row["largest"])
    assert row["start"] == 0
    assert row["loss"] <= 1e-5
    assert row["gradient"] <= 1e-5 * scale
    assert row["state"] <= 1e-5 * scale
    assert row["unequal"] == []
    assert row["largest"] > 1e-3


@pytest.mark.parametrize("name", SHORT)
def test_a_step_on_two_replicas_is_that_of_one_device(short, name):
    (row,) = [row for row in short if row.get("name") == name]
    assert row["replicas"] == 2
    check_step(row)


def test_a_training_goes_on_with_another_number_of_replicas(short):
    *parts, whole = [row for row in short if row["command"] == "resume"]
    assert [row["replicas"] for row in parts] == [2, 1, 2]
    assert [row["steps"] for row in parts] == [10, 20, 30]
    assert [row["updates"] for row in parts] == [8, 16, 24]  # the others were skipped
    assert [row["unequal"] for row in parts] == [[], [], []]
    assert all(row["shapes"] == whole["shapes"] for row in parts)
    assert whole["weights"] <= 1e-4 < 0.1 < whole["moved"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", SPREAD)
def test_every_task_on_two_and_on_four_replicas(name):
    counts = ("--names", name, "--counts", "2", "4")
    steps = compared(*counts, commands=("step",))
    # Views of the policies differ in the last bits by the shape of the batch, and 20 steps enlarge
    # that: it is the training that is compared here.
    trained = compared(*counts, "--plain", commands=("train",))
    assert [row["replicas"] for row in steps] == [row["replicas"] for row in trained] == [2, 4]
    for row in steps:
        check_step(row)
    for row in trained:
        assert row["steps"] == 20
        assert row["weights"] <= 1e-4
        assert row["unequal"] == []


@pytest.mark.slow
@pytest.mark.distributed
def test_replicas_get_the_views_that_one_device_would_make():
    rows = compared(commands=("views", "refused"))
    kinds = {row["kind"]: row["difference"] for row in rows if row["command"] == "views"}
    assert set(kinds) == {"resident", "compiled", "streamed", "host"}
    assert max(kinds.values()) <= 1e-5
    (refused,) = [row for row in rows if row["command"] == "refused"]
    assert "batch_norm_groups" in refused["message"]


# What one process can see


def test_one_device_is_left_as_it_is():
    assert replicas.part() is None
    values = tf.range(6)
    assert replicas.own(values) is values
    assert replicas.mean([values]) == [values]
    assert ALONE.run(lambda x: x + 1, 1, batch_size=3) == 2
    assert Replicas(["CPU:0"]).count == ALONE.count == 1


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_the_step_on_one_device_is_compiled_by_xla(tmp_path, kind):
    device = machine.Device(kind, "float32", jit_step=True, jit_augment=True)
    places = learning._devices(kind, 1)
    source = small_tasks.loader(small_tasks.make("simclr"), device=device, replicas=places)
    trainer = small_tasks.trainer(small_tasks.make("simclr"), source, tmp_path, device=device)
    assert trainer.calls.jit


def test_the_rows_of_a_replica_are_of_every_view():
    token = replicas._part.set(replicas.Part(number=1, count=2, rows=2))
    try:
        np.testing.assert_array_equal(replicas.own(tf.range(8)), [2, 3, 6, 7])
    finally:
        replicas._part.reset(token)


def test_a_batch_that_cannot_be_divided_is_refused():
    places = Replicas()
    places.count = 3
    places.check(9)
    with pytest.raises(ConfigError, match="100 cannot be divided among 3 replicas.* such as 99"):
        places.check(100)


def test_a_backbone_that_keeps_to_its_own_images_is_refused():
    def network(**how):
        norm = keras.layers.BatchNormalization(name="norm", **how)
        return keras.Sequential([keras.Input((4, 4, 3)), norm])

    learning.check_statistics(network(synchronized=True))
    learning.check_statistics(small_tasks.backbone())
    with pytest.raises(ConfigError, match="'.*norm' normalises .* synchronized=True"):
        learning.check_statistics(network())


def devices(monkeypatch, gpus):
    cpu, gpu = ["a CPU"], [f"GPU {i}" for i in range(gpus)]
    found = {"CPU": cpu, "GPU": gpu}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found[kind])
    divided = []
    monkeypatch.setattr(
        tf.config, "set_logical_device_configuration", lambda _, parts: divided.append(len(parts))
    )
    monkeypatch.setattr(tf.config, "get_logical_device_configuration", lambda _: None)
    return divided


@pytest.mark.parametrize(
    ("gpus", "settings", "expected"),
    [
        (0, {}, 1),
        (1, {}, 1),
        (4, {}, 1),
        (4, {"strategy": "none"}, 1),
        (4, {"strategy": "mirrored", "replicas": 2}, 2),
        (4, {"strategy": "mirrored"}, 4),
        (0, {"strategy": "mirrored", "replicas": 3}, 3),
        (0, {"strategy": "mirrored", "replicas": 1}, 1),
    ],
)
def test_how_many_devices_there_are(monkeypatch, gpus, settings, expected):
    divided = devices(monkeypatch, gpus)
    assert machine.resolve(RuntimeConfig(dtype="float32", **settings)).replicas == expected
    assert divided == ([expected] if expected > 1 and not gpus else [])


@pytest.mark.parametrize(
    ("gpus", "settings", "message"),
    [
        (0, {"replicas": 2}, "Set runtime.strategy=mirrored"),
        (2, {"strategy": "none", "replicas": 2}, "Set runtime.strategy=mirrored"),
        (0, {"strategy": "mirrored"}, "Set it to a number"),
        (2, {"strategy": "mirrored", "replicas": 3}, "3, but 2 GPUs are visible"),
        (2, {"strategy": "mirrored", "jit_compile": "always"}, "Set it to auto"),
    ],
)
def test_devices_that_there_are_not_are_refused(monkeypatch, gpus, settings, message):
    devices(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=message):
        machine.resolve(RuntimeConfig(dtype="float32", **settings))


def test_a_cpu_cannot_be_divided_once_tensorflow_runs(monkeypatch):
    devices(monkeypatch, 0)

    def too_late(*_):
        raise RuntimeError("initialised")

    monkeypatch.setattr(tf.config, "set_logical_device_configuration", too_late)
    with pytest.raises(ConfigError, match="process of its own"):
        machine.resolve(RuntimeConfig(strategy="mirrored", replicas=2))


# Whole runs of the program


@pytest.fixture
def tiny(tmp_path):
    """A configuration, and the environment that finds its backbone."""
    small = ["pretext.optimizer.lr=0.02", "pretext.epochs=200"]
    small += ["scan.augmentation=weak", "scan.head_epochs=2", "scan.epochs=2"]
    small += ["selflabel.augmentation=weak", "selflabel.epochs=2"]
    images = tiny_runs.write_splits(tmp_path / "images")
    return tiny_runs.write_config(tmp_path / "tiny.yaml", images, *small), with_path()


def wait_for(path, *processes):
    deadline = time.monotonic() + 400
    while not path.exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_on_replicas_is_killed_and_goes_on_with_another_number(tiny, tmp_path):
    config, environment = tiny
    run = tmp_path / "run"
    start = [sys.executable, "-m", "scan_tf.cli", "run", "--config", config, "--run-dir", run]
    start = [*map(str, start), "runtime.strategy=mirrored"]
    started = subprocess.Popen([*start, "runtime.replicas=2"], env=environment)
    with worker_processes.ended_by_the_end([started]):  # by a kill
        wait_for(run / "pretext" / "ckpt" / "previous.npz", started)
    how = {"capture_output": True, "text": True, "check": False, "env": environment}
    done = subprocess.run([*start, "runtime.replicas=4"], **how)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pretext: was begun with 2 replicas and goes on with 4" in done.stderr
    assert ", 4 replicas" in done.stdout
    assert (run / "export" / "saved_model.pb").exists()
    for stage in ("pretext", "scan", "selflabel"):
        assert tiny_runs.weights(run, stage)


# Several processes


def in_processes(count, run, *command):
    """Processes of the same command, the first of them first; what they say goes into files."""
    whole = [sys.executable, "-m", "scan_tf.cli", *command, "--run-dir", run]
    whole = [*map(str, whole), "runtime.strategy=multi_worker"]
    found = []
    for index, environment in enumerate(worker_processes.environments(count)):
        with open(f"{run}.{index}", "w", encoding="utf-8") as log:
            how = {"stdout": log, "stderr": subprocess.STDOUT, "cwd": run.parent}
            found.append(subprocess.Popen(whole, env=environment, **how))
    return found


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("count", [2, 4])
def test_processes_find_the_neighbours_that_one_finds(tmp_path, monkeypatch, count):
    shutil.copytree(TESTS / "data" / "run-format-1", tmp_path / "stored")
    monkeypatch.chdir(tmp_path / "stored")  # the paths in it are relative
    run = tmp_path / "stored" / "run"
    again = ["neighbors", "--redo", "neighbors"]
    assert tiny_runs.scan_tf(*again, "--run-dir", run) == 0
    one = neighbors.load(run / "neighbors" / "train.npz")
    with worker_processes.ended_by_the_end(in_processes(count, run, *again)) as started:
        assert [process.wait(timeout=400) for process in started] == [0] * count
    for index in range(1, count):
        said = (run.parent / f"run.{index}").read_text(encoding="utf-8")
        assert "neighbors: helping" in said
    several = neighbors.load(run / "neighbors" / "train.npz")
    np.testing.assert_array_equal(several.indices, one.indices)
    np.testing.assert_array_equal(several.similarity, one.similarity)
    assert (several.index, several.recall) == ("exact", 1.0)
    assert not (run / "neighbors" / "rows.npy").exists()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("count", "streaming"), [(2, "never"), (2, "always"), (4, "never")])
def test_processes_train_together_and_end_and_go_on_together(tiny, tmp_path, count, streaming):
    config, environment = tiny
    shorter = config.read_text(encoding="utf-8").replace("epochs: 200", "epochs: 80")
    config.write_text(shorter, encoding="utf-8")
    held = (f"data.streaming={streaming}", f"data.cache={tmp_path / 'cache'}")
    run, pretext = tmp_path / "run", ("pretext", "--config", config, *held)
    started = in_processes(count, run, *pretext)
    with worker_processes.ended_by_the_end(started) as (*others, last):
        wait_for(run / "pretext" / "ckpt" / "previous.npz", *others, last)
        last.kill()
        killed = time.monotonic()
        assert [process.wait(timeout=60) for process in others] == [2] * len(others)
        print(f"{count} processes: {time.monotonic() - killed:.0f} s after a kill the others ended")
    for index in range(count - 1):
        said = (tmp_path / f"run.{index}").read_text()
        assert "Start the same command again in all processes" in said
    said = [line for path in tmp_path.glob("run.*") for line in path.read_text().splitlines()]
    made = [line for line in said if "are decoded into it once" in line]
    assert len(made) == len({*made})  # one process makes them for all
    assert bool(made) == (streaming == "always")
    assert not (run / "pretext" / "weights.npz").exists()
    with worker_processes.ended_by_the_end(in_processes(count, run, *pretext)) as all_:
        assert [process.wait(timeout=400) for process in all_] == [0] * count
    rows = (run / "pretext" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["epoch"] == 80
    alone = [sys.executable, "-m", "scan_tf.cli", "pretext", "--config", config]
    alone = [*map(str, alone), "--run-dir", str(tmp_path / "alone")]
    subprocess.run(alone, check=True, env=environment)
    # Hundreds of steps make a rounding large; the first ones are those of one device.
    others = (tmp_path / "alone" / "pretext" / "metrics.jsonl").read_text().splitlines()
    for row, other in zip(rows[:5], others[:5], strict=True):
        assert json.loads(row)["loss"] == pytest.approx(json.loads(other)["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"cluster": {"worker": ["a:1", "b:2"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
    ],
)
def test_a_place_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match="runtime.strategy.*TF_CONFIG.*HOST:PORT"):
        machine.helps()


def test_the_first_process_does_not_help(monkeypatch):
    for index in (0, 1):
        place = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(place))
        assert machine.helps() == (index > 0)


def test_one_process_agrees_with_itself():
    assert ALONE.agreed(7) == 7
    assert ALONE.processes == 1
    ALONE.follow_first([None])


def test_several_processes_are_not_started_from_python():
    with pytest.raises(ConfigError, match="is for scan-tf run"):
        fitting.settings_of(None, 3, {"runtime__strategy": "multi_worker"})


@pytest.mark.parametrize("asked", [["sweep"], ["run", "--minutes", "3"], ["run", "--finish"]])
def test_what_one_process_does_alone_is_refused_to_several(asked, tmp_path, capsys):
    command = [*asked, "--config", "digits_simclr", "--run-dir", tmp_path / "run"]
    command.append("runtime.strategy=multi_worker")
    assert tiny_runs.scan_tf(*command, *(["scan.epochs=1,2"] if asked == ["sweep"] else [])) == 2
    assert "'multi_worker' is for scan-tf run and its stages" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.distributed
def test_the_example_of_the_documentation_runs(tmp_path):
    text = (TESTS.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    command = [sys.executable, tmp_path / "example.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert losses[-1] < losses[0]
