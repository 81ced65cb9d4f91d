from __future__ import annotations

import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from scan_tf.errors import Diverged, StageError
from scan_tf.models.heads import ClusterHeads, ProjectionHead
from scan_tf.models.weights import load_weights, named_variables, save_weights
from scan_tf.storage import files
from scan_tf.training import checkpoint

DTYPES = ["float32", "float64", "int64", "int32", "bool"]


def heads(count=1, clusters=3, dim=4):
    network = ClusterHeads(count, clusters)
    network.build((None, dim))
    return network


def values(network):
    return [np.asarray(v).copy() for v in network.variables]


def named(variables):
    return dict(zip("abcdefghijklmnopqrstuvwxyz", variables, strict=False))


def failure(function, *args, **kwargs):
    with pytest.raises(StageError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


# State


def test_state_comes_back_exactly(tmp_path, rng):
    arrays = [(3 * rng.standard_normal(s)).astype(d) for d in DTYPES for s in ((), (2, 3))]
    arrays[1][0, 0] = 1e-45
    path = tmp_path / "deep" / "state.npz"
    extra = {"window": [{"loss": 0.1}], "hook": {"best": None, "name": "é"}}
    saved = named([tf.Variable(a) for a in arrays]) | {"a/keras": keras.Variable(arrays[1])}
    checkpoint.save_state(path, saved, step=2**40, extra=extra)
    others = {name: tf.Variable(tf.zeros_like(v)) for name, v in saved.items()}
    assert checkpoint.restore_state(path, others) == (2**40, extra)
    for old, new in zip([*arrays, arrays[1]], others.values(), strict=True):
        assert new.numpy().dtype == old.dtype
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        ([(2,)], [(2,), (3,)], "1 of 2 variables do not fit this config: b is missing."),
        ([(2,), (3,)], [(2,)], "1 of 1 variables do not fit this config: b is surplus."),
        ([(2,)], [(3,)], "a is [[2], 'float32'], expected [[3], 'float32']."),
        ([(1,)] * 9, [()] * 9, "9 of 9 variables do not fit this config: a is "),
    ],
)
def test_another_set_of_variables_is_refused(tmp_path, stored, wanted, expected):
    path = tmp_path / "state.npz"
    saved = named([tf.Variable(tf.ones(s)) for s in stored])
    checkpoint.save_state(path, saved, step=1, extra={})
    variables = named([tf.Variable(tf.zeros(s)) for s in wanted])
    said = failure(checkpoint.restore_state, path, variables)
    assert said.startswith(f"{path}: ")
    assert expected in said
    assert said.endswith("Use the config it was trained with, or another run directory.")
    assert all(not v.numpy().any() for v in variables.values())


def test_another_dtype_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save_state(path, {"a": tf.Variable(1)}, step=1, extra={})
    said = failure(checkpoint.restore_state, path, {"a": tf.Variable(1.0)})
    assert "a is [[], 'int32'], expected [[], 'float32']" in said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_saved_and_what_was_there_stays(tmp_path, value):
    path = tmp_path / "state.npz"
    checkpoint.save_state(path, {"a": tf.Variable([1.0])}, step=1, extra={})
    bad = {"a": tf.Variable([1.0]), "b": tf.Variable([1.0, value])}
    with pytest.raises(Diverged, match="1 of 2 variables are not finite at step 2, such as b"):
        checkpoint.save_state(path, bad, step=2, extra={})
    assert checkpoint.good(path) == [(path, 1)]
    network = heads()
    network.variables[0].assign(np.full(network.variables[0].shape, value))
    with pytest.raises(Diverged, match="not written: 1 of 2 variables are not finite"):
        save_weights(tmp_path / "weights.npz", {"heads": network})
    assert os.listdir(tmp_path) == ["state.npz"]


def test_two_generations_are_kept(tmp_path):
    path = tmp_path / "state.npz"
    for step in range(4):
        checkpoint.save_state(path, {"a": tf.Variable(step)}, step=step, extra={})
    before = checkpoint.previous(path)
    assert checkpoint.good(path) == [(path, 3), (before, 2)]
    path.write_bytes(b"")
    assert checkpoint.good(path) == [(before, 2)]
    assert f"mv {before} {path}" in failure(checkpoint.restore_state, path, {"a": tf.Variable(0)})
    before.write_bytes(b"")
    assert "mv " not in failure(checkpoint.restore_state, path, {"a": tf.Variable(0)})


def test_variables_of_one_shape_are_not_swapped(tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save_state(path, named([tf.Variable(1.0), tf.Variable(2.0)]), step=1, extra={})
    swapped = {"b": tf.Variable(0.0), "a": tf.Variable(0.0)}
    checkpoint.restore_state(path, swapped)
    assert (float(swapped["a"]), float(swapped["b"])) == (1, 2)
    said = failure(checkpoint.restore_state, path, {"a": tf.Variable(0.0), "c": tf.Variable(0.0)})
    assert "c is missing; b is surplus" in said


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_state_of_format_1_is_read_by_the_order_of_its_variables(tmp_path, count):
    path = tmp_path / "state.npz"
    arrays = {f"{i:05d}": np.full(2, i, np.float32) for i in range(2)}
    files.write_npz(path, arrays, {"step": 7, "extra": {"hook": {}}})
    variables = named([tf.Variable(tf.fill([2], -1.0)) for _ in range(count)])
    if count == 2:
        assert checkpoint.restore_state(path, variables) == (7, {"hook": {}})
        assert [v.numpy().tolist() for v in variables.values()] == [[0, 0], [1, 1]]
    else:
        said = failure(checkpoint.restore_state, path, variables)
        assert "c is missing" in said if count == 3 else "00001 is surplus" in said


def test_a_state_of_a_later_format_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    files.write_npz(path, {"a": np.zeros(1)}, {"format": 3, "step": 1, "extra": {}})
    assert "has format 3; this version reads up to 2" in failure(
        checkpoint.restore_state, path, {"a": tf.Variable([0.0])}
    )


# Weights


def test_weights_come_back_under_their_names(tmp_path):
    path = tmp_path / "weights.npz"
    projector = ProjectionHead(4, 5, 2)
    networks = {"heads": heads(2), "projector": projector}
    save_weights(path, networks, extra={"head": 1})
    arrays, _ = files.read_npz(path)
    assert {"heads/0/kernel", "heads/1/bias", "projector/hidden/kernel"} <= set(arrays)
    other = heads(2)
    assert load_weights(path, {"heads": other}) == {"head": 1}
    np.testing.assert_equal(values(other), values(networks["heads"]))


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        (heads, lambda: heads(2), "2 of 4 variables do not fit this config: heads/1/kernel is mis"),
        (lambda: heads(2), heads, "heads/1/kernel is surplus; heads/1/bias is surplus."),
        (
            lambda: heads(1, 7),
            heads,
            "heads/0/kernel is [[4, 7], 'float32'], expected [[4, 3], 'float32']; heads/0/bias is",
        ),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, stored, wanted, expected):
    path = tmp_path / "weights.npz"
    save_weights(path, {"heads": stored()})
    network = wanted()
    before = values(network)
    assert expected in failure(load_weights, path, {"heads": network})
    np.testing.assert_equal(values(network), before)


def test_a_network_that_is_not_there_is_missing(tmp_path):
    path = tmp_path / "weights.npz"
    save_weights(path, {"heads": heads()})
    said = failure(load_weights, path, {"backbone": heads()})
    assert "backbone/0/kernel is missing; backbone/0/bias is missing" in said


def test_two_variables_never_share_a_name():
    network = heads(12)
    names = named_variables({"a": network, "b": network})
    assert len(names) == 2 * len(network.variables)


# Files


def test_a_missing_file_says_so(tmp_path):
    path = tmp_path / "none.npz"
    said = failure(files.read_npz, path)
    assert said == f"{path}: no such file; the stage before has not finished."


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save_state(path, {"a": tf.Variable(tf.range(1000.0))}, step=1, extra={})
    return path


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(written, part):
    content = written.read_bytes()
    written.write_bytes(content[: int(part * len(content))])
    said = failure(checkpoint.restore_state, written, {"a": tf.Variable(tf.zeros(1000))})
    assert said.startswith(f"{written}: damaged or not written by scan_tf (")


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04."])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    assert "damaged or not written by scan_tf" in failure(files.read_npz, path)


def test_other_numpy_files_are_refused(tmp_path):
    path = tmp_path / "state.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    assert "damaged or not written by scan_tf" in failure(files.read_npz, path)
    np.savez(path, a=np.zeros(3))
    assert "damaged or not written by scan_tf" in failure(files.read_npz, path)
    np.savez(path, manifest=np.array(["{}"], object))
    assert "damaged or not written by scan_tf" in failure(files.read_npz, path)


def test_flipped_bits_are_refused_or_change_nothing(written, rng):
    content = written.read_bytes()
    expected, manifest = files.read_npz(written)
    refused = 0
    for place in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        written.write_bytes(damaged)
        try:
            found = files.read_npz(written)
        except StageError:
            refused += 1
        else:
            np.testing.assert_equal(found, (expected, manifest))
    assert refused > 100


# Atomicity


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "notes.txt"
    files.write_text(path, "old")

    def fail():
        with files.atomic(path) as temporary:
            temporary.write_text("half of the n")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]
    files.write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_state_that_cannot_be_written_leaves_the_old_one(written):
    before = written.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save_state(written, {}, step=2, extra={"hook": object()})
    assert written.read_bytes() == before


def test_the_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (calls.append("fsync"), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    files.write_npz(tmp_path / "a.npz", {"a": np.zeros(3)}, {})
    assert re.fullmatch("(fsync )+replace( fsync)*", " ".join(calls))
