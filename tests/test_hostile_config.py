"""No text whatever makes a traceback, hangs, or leads out of the folder of runs."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scan_tf import config
from scan_tf.cli import arguments
from scan_tf.cli.program import main
from scan_tf.errors import ConfigError
from scan_tf.experiments import variants
from scan_tf.settings import reading, schema

# `make fuzz` sets it.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
fuzz = settings(max_examples=EXAMPLES, deadline=None)

BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=False)
)
TEXTS = {
    "nested lists": "[" * 400 + "1" + "]" * 400,
    "nested mappings": "{a: " * 3000,
    "nested blocks": "\n".join(" " * depth + "a:" for depth in range(1500)),
    "a bomb of aliases": BOMB,
    "a bomb within a setting": f"{BOMB}\nscan: {{epochs: *j}}",
    "a list within itself": "a: &a [*a]",
    "a mapping within itself": "&a {scan: *a}",
    "many digits": "seed: " + "9" * 5000,
    "many hexadecimal digits": "seed: 0x" + "f" * 5000,
    "a number too large": "scan: {epochs: " + "9" * 400 + "}",
    "a float too large": "scan: {optimizer: {lr: 0x" + "f" * 400 + "}}",
    "a key of many digits": "0x" + "f" * 5000 + ": 1",
    "a date that is none": "seed: 2000-99-99",
    "an integer that is none": "seed: !!int ''",
    "a float that is none": "seed: !!float x",
    "a truth that is none": "seed: !!bool x",
    "a time that is none": "seed: !!timestamp x",
    "bytes that are none": "seed: !!binary \xe9",
    "a set": "seed: !!set {a, b}",
    "pairs": "seed: !!pairs [a: 1]",
    "python": "seed: !!python/object/apply:os.system [id]",
    "an unknown tag": "seed: !x 1",
    "a list for a key": "? [a, b]\n: 1",
    "a mapping for a key": "? {a: b}\n: 1",
    "a merge of nothing": "<<: 3",
    "NUL": "name: a\0b",
    "NUL in quotes": 'data: {path: "a\\0b"}',
    "surrogates": 'name: "\\udcff/"',
    "two documents": "seed: 1\n---\nseed: 2",
    "a long key": "x" * 100_000 + ": 1",
    "a long value": f"seed: {'x' * 100_000}",
    "no mapping": "[1, 2]",
    "tabs": "\t\t:\t",
    "a method by a path": "pretext: ../../x",
    "a method with dots alone": "pretext: '...'",
    "a method of nothing": "pretext: .simclr",
    "a method with NUL": 'pretext: "a.b\\0"',
}


def refused(text: str, tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError) as end:
        config.load(path)
    return str(end.value)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_hostile_file_is_refused_in_a_few_words(tmp_path, kind):
    assert len(refused(TEXTS[kind], tmp_path)) < 4000


def test_what_is_no_ordinary_file_is_refused(tmp_path):
    for name in ("pipe", "folder", "large", "utf16", "missing"):
        path = tmp_path / name
        if name == "pipe":
            os.mkfifo(path)
        elif name == "folder":
            path.mkdir()
        elif name == "large":
            path.write_text("# " + "x" * 2**20)
        elif name == "utf16":
            path.write_text("seed: 1", encoding="utf-16")
        with pytest.raises(ConfigError, match=f"{name}: the config file cannot be read"):
            config.load(path)


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", "..", ".", "", "a\\b", "a\0", "a\nb", "x" * 101]
)
def test_a_name_does_not_lead_out_of_the_folder_of_runs(tmp_path, name, monkeypatch, capsys):
    with pytest.raises(ConfigError, match="^name: expected"):
        config.from_dict({"name": name})
    monkeypatch.chdir(tmp_path)
    quoted = '"' + name.replace("\\", "\\\\").replace("\0", "\\0").replace("\n", "\\n") + '"'
    assert main(["neighbors", "--config", "digits_simclr", f"name={quoted}"]) == 2
    assert "name: expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_names_of_folders_in_any_language_are_allowed():
    for name in ("run", "Läufe 2", "实验", ".hidden", "a.b-c_d", "x" * 100):
        assert config.from_dict({"name": name}).name == name


KEYS = [d.key for d in schema.describe(config.Config())] + ["scan", "pretext", "data", "x", ""]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**300, max_value=10**400),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["rotnet", "temi", "sgd", "auto", "1e-4", "../x", "a.b", "~", "=", "<<"]),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.one_of(st.sampled_from(KEYS), SCALARS), inner, max_size=3)
    ),
    max_leaves=8,
)


@fuzz
@given(st.text())
@example("\ud800")
@example("!!int")
@example("?")
def test_any_text_is_yaml_or_refused(text):
    with contextlib.suppress(ConfigError):
        reading.parse_yaml(text, "here")


@fuzz
@given(st.dictionaries(st.sampled_from(KEYS), TREES, max_size=4))
def test_any_tree_is_a_config_or_refused(tree):
    with contextlib.suppress(ConfigError):
        made = config.from_dict(tree)
        assert config.from_dict(yaml.safe_load(config.dump(made))) == made


@fuzz
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.text() | SCALARS.map(str)), max_size=3))
@example([("scan.epochs", "0x" + "f" * 5000)])
@example([("seed", "2000-99-99")])
@example([("scan", "3"), ("scan.epochs", "3")])
def test_any_overrides_are_taken_or_refused(pairs):
    texts = [f"{key}={value}" for key, value in pairs]
    with contextlib.suppress(ConfigError):
        config.from_dict(reading.with_overrides(config.Config, {}, texts))
    with contextlib.suppress(ConfigError):
        variants.parse(texts)
    assert all(isinstance(arguments.is_override(text), bool) for text in texts)


def test_a_path_that_is_no_utf8_comes_back(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    made = config.from_dict({"data": {"name": "folder", "path": name}})
    (tmp_path / "config.yaml").write_text(config.dump(made), encoding="utf-8")
    assert config.load(tmp_path / "config.yaml").data.path == name
    quoted = f"data.path={json.dumps(name)}"
    assert config.load(tmp_path / "config.yaml", [quoted]).data.path == name
