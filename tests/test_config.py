from __future__ import annotations

import dataclasses
import math
import pathlib
import subprocess
import sys

import pytest
import yaml

from scan_tf import config
from scan_tf.errors import ConfigError
from scan_tf.methods import catalog
from scan_tf.methods.clustering import scan
from scan_tf.settings import schema, sealed

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def build(tree):
    return config.from_dict(tree)


def load(tmp_path, text, *overrides):
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, overrides)


def message(function, *args):
    with pytest.raises(ConfigError) as caught:
        function(*args)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Bad settings, each with its whole message


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"scan": {"epochs": "20"}}, "scan.epochs: expected an integer, got '20' (str)."),
        ({"scan": {"epochs": 2.0}}, "scan.epochs: expected an integer, got 2.0 (float)."),
        ({"scan": {"epochs": True}}, "scan.epochs: expected an integer, got True (bool)."),
        ({"scan": {"epochs": None}}, "scan.epochs: expected an integer, got None (NoneType)."),
        (
            {"scan": {"entropy_weight": True}},
            "scan.entropy_weight: expected a number, got True (bool).",
        ),
        (
            {"scan": {"entropy_weight": "five"}},
            "scan.entropy_weight: expected a number, got 'five' (str).",
        ),
        (
            {"scan": {"entropy_weight": math.nan}},
            "scan.entropy_weight: expected a finite number, got nan (float).",
        ),
        (
            {"scan": {"entropy_weight": math.inf}},
            "scan.entropy_weight: expected a finite number, got inf (float).",
        ),
        ({"scan": {"freeze_backbone": 1}}, "scan.freeze_backbone: expected true or false, got 1"),
        ({"name": 7}, "name: expected a string, got 7 (int)."),
        ({"data": {"name": ["digits"]}}, "data.name: expected a string, got ['digits'] (list)."),
        (
            {"scan": {"num_clusters": "ten"}},
            "scan.num_clusters: expected an integer or auto, got 'ten' (str).",
        ),
        (
            {"scan": {"num_clusters": 2.5}},
            "scan.num_clusters: expected an integer or auto, got 2.5 (float).",
        ),
        (
            {"scan": {"num_clusters_range": [1, 9]}},
            "scan.num_clusters_range[0]: must be at least 2, got 1.",
        ),
        ({"augment": {"jitter": [1, 1, 1]}}, "augment.jitter: expected 4 values, got [1, 1, 1]"),
        ({"augment": {"jitter": 0.4}}, "augment.jitter: expected 4 values, got 0.4 (float)."),
        (
            {"augment": {"crop_scale": [0.2, "all"]}},
            "augment.crop_scale[1]: expected a number, got 'all' (str).",
        ),
        ({"scan": {"epochs": 0}}, "scan.epochs: must be at least 1, got 0."),
        ({"scan": {"heldout_fraction": 0.6}}, "scan.heldout_fraction: must be at most 0.5, got"),
        (
            {"scan": {"heldout_fraction": 0}},
            "scan.heldout_fraction: must be greater than 0, got 0.0.",
        ),
        (
            {"scan": {"optimizer": {"lr": -1.0}}},
            "scan.optimizer.lr: must be greater than 0, got -1.0.",
        ),
        ({"scan": {"num_clusters": 1}}, "scan.num_clusters: must be at least 2, got 1."),
        ({"seed": -1}, "seed: must be at least 0, got -1."),
        ({"scan": 3}, "scan: expected a mapping, got 3 (int)."),
        ({"scan": ["epochs"]}, "scan: expected a mapping, got ['epochs'] (list)."),
        ({"pretext": 3}, "pretext: expected a mapping, got 3 (int)."),
        ({"pretext": {"name": 3}}, "pretext.name: expected a string, got 3 (int)."),
        ({"scan": {"optimizer": 0.1}}, "scan.optimizer: expected a mapping, got 0.1 (float)."),
        (
            {"model": {"stem": "cifer"}},
            "model.stem: 'cifer' (str) is not a choice. Did you mean 'cifar'? Available: cifar, "
            "imagenet, stl, strided.",
        ),
        (
            {"runtime": {"jit_compile": True}},
            "runtime.jit_compile: True (bool) is not a choice. Available: always, auto, never.",
        ),
        ({"scan": "adam"}, "scan.name: unknown 'adam'. Available: "),
        ({"scan": {"name": 3}}, "scan.name: expected a string, got 3 (int)."),
        ({"selflabel": "my.method"}, "selflabel.name: 'my.method' cannot be imported (No module"),
        (
            {"selflabel": "scan_tf.methods.pretext.simclr"},
            "selflabel.name: 'scan_tf.methods.pretext.simclr' is no method: expected a module with "
            "a class Config that extends SelfLabelConfig, and a class Method.",
        ),
        (
            {"model": {"backbone": "resnet19"}},
            "model.backbone: 'resnet19' (str) is not a choice. Did you mean 'resnet18'? Available:",
        ),
        ({"scan": {"optimizer": {"lr": "1e999"}}}, "scan.optimizer.lr: expected a finite number"),
    ],
)
def test_bad_value(tree, expected):
    assert message(build, tree).startswith(expected)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"scam": {}},
            "unknown key 'scam'. Did you mean 'scan'? Available: augment, clustering_seed, data, ",
        ),
        (
            {"scan": {"epoch": 3}},
            "unknown key 'scan.epoch'. Did you mean 'epochs'? Available: augmentation, batch_size",
        ),
        (
            {"scan": {"optimizer": {"learning_rate": 3}}},
            "unknown key 'scan.optimizer.learning_rate'. ",
        ),
        ({1: 2}, "unknown key '1'. Available: "),
        ({"pretext": {"name": "rotnet", "temperature": 0.1}}, "unknown key 'pretext.temperature'"),
        (
            {"pretext": {"name": "simclar"}},
            "pretext.name: unknown 'simclar'. Did you mean 'simclr'? "
            "Available: barlow_twins, byol, dcl, ",
        ),
    ],
)
def test_unknown_name(tree, expected):
    assert message(build, tree).startswith(expected)


def _bounded():
    """Every setting with a bound: section class, field, bound, and a value that is just outside."""
    tree = {f.name: getattr(config.Config(), f.name) for f in dataclasses.fields(config.Config)}
    sections = [type(v) for v in tree.values() if dataclasses.is_dataclass(v)]
    sections += [catalog.config_class(k, n) for k in catalog.SECTIONS for n in catalog.available(k)]
    for section in dict.fromkeys([*sections, config.OptimizerConfig]):
        for field in dataclasses.fields(section):
            whole = isinstance(field.default, int) or "int" in str(field.type)
            step = 1 if whole else 1e-6
            for bound, sign in (("low", -1), ("high", 1)):
                value = field.metadata.get(bound)
                together = field.name in ("queue_size", "batch_norm_groups", "batch_size")
                if value is not None and not together and "tuple" not in str(field.type):
                    yield pytest.param(
                        section,
                        field.name,
                        value if whole else float(value),
                        value + sign * step,
                        id=f"{section.__module__}.{section.__name__}.{field.name}-{bound}",
                    )


@pytest.mark.parametrize(("section", "name", "bound", "outside"), [*_bounded()])
def test_a_bound_itself_is_allowed_and_what_is_just_outside_is_not(section, name, bound, outside):
    with pytest.raises(ConfigError, match=f"^{name}: must be at "):
        section(**{name: outside})
    assert getattr(section(**{name: bound}), name) == bound


@pytest.mark.parametrize("section", ["scan", "selflabel"])
def test_a_policy_is_one_of_ours_or_has_a_dotted_name(section):
    for name in ("none", "simclr", "strong", "weak", "my_package.views.gentle"):
        assert getattr(build({section: {"augmentation": name}}), section).augmentation == name
    text = message(build, {section: {"augmentation": "week"}})
    expected = f"{section}.augmentation: 'week' (str) is not a choice. Did you mean 'weak'?"
    assert text.startswith(expected)


def test_a_section_checks_itself_without_the_loader():
    with pytest.raises(ConfigError, match="^epochs: must be at least 1, got 0.$"):
        scan.Config(epochs=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scan.Config().epochs = 3


# Files and overrides


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load(tmp_path, "") == build({}) == load(tmp_path, "# nothing\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "experiment.yaml:2: the key 'seed' is given twice."),
        ("scan:\n  epochs: 1\n  epochs: 2\n", ":3: the key 'epochs' is given twice."),
        ("[1, 2]", "experiment.yaml: expected a mapping of sections, got [1, 2] (list)."),
        ("seed: [1", "experiment.yaml: not valid YAML: "),
        ("? [1, 2]\n: 3\n", "experiment.yaml: not valid YAML: "),
        ("seed: !!python/object/apply:os.getpid []", "experiment.yaml: not valid YAML: "),
    ],
)
def test_bad_file(tmp_path, text, expected):
    assert expected in message(load, tmp_path, text)


def test_missing_and_binary_file(tmp_path):
    path = tmp_path / "none.yaml"
    expected = f"{path}: the config file cannot be read"
    with pytest.raises(ConfigError, match=expected):
        config.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=expected):
        config.load(path)


def test_overrides_go_through_the_same_checks(tmp_path):
    text = "scan:\n  epochs: 3\n  num_heads: 2\n"
    loaded = load(tmp_path, text, "scan.epochs=7", "augment.crop_scale=[0.5, 1]", "data.path=")
    assert (loaded.scan.epochs, loaded.scan.num_heads) == (7, 2)
    assert loaded.augment.crop_scale == (0.5, 1.0)
    assert loaded.data.path is None
    assert load(tmp_path, text, "scan.epochs=7", "scan.epochs=8").scan.epochs == 8
    assert "scan.epochs: expected an integer" in message(load, tmp_path, text, "scan.epochs=many")
    assert "unknown key 'scan.epoch'" in message(load, tmp_path, text, "scan.epoch=1")


@pytest.mark.parametrize(
    "path",
    [
        "a #2",
        "&a",
        "2024",
        "2024-11-27",
        "my: a",
        "[raw] a",
        "@eaDir",
        "on",
        "'a'",
        "a=b",
        "{",
        "-",
    ],
)
def test_a_path_is_taken_as_it_is_typed(tmp_path, path):
    assert load(tmp_path, "", f"data.path={path}").data.path == path


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert load(tmp_path, "", "data.path=~/a").data.path == "/home/me/a"
    assert load(tmp_path, "data: {path: ~/a}").data.path == "/home/me/a"
    assert load(tmp_path, "data: {path: a~}").data.path == "a~"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("scan.epochs", "override 'scan.epochs': expected key=value, such as scan.epochs=20."),
        ("=3", "override '=3': expected key=value, such as scan.epochs=20."),
        ("seed=[1", "override 'seed=[1': the value is not valid YAML: "),
        ("seed.epochs=1", "override 'seed.epochs=1': seed is 5 (int), not a section."),
        ("scan.epochs.x=1", "scan.epochs: expected an integer, got {'x': 1} (dict)."),
    ],
)
def test_bad_override(tmp_path, override, expected):
    assert message(load, tmp_path, "seed: 5", override).startswith(expected)


def test_an_override_may_extend_the_short_form(tmp_path):
    loaded = load(tmp_path, "pretext: rotnet", "pretext.epochs=2")
    assert (loaded.pretext.name, loaded.pretext.epochs) == ("rotnet", 2)
    text = "pretext: {name: simclr, temperature: 0.5}"
    assert load(tmp_path, text, "pretext.epochs=2").pretext.temperature == 0.5


# Another method by one word


@pytest.mark.parametrize("word", ["pretext.name=rotnet", "pretext=rotnet"])
def test_another_method_leaves_out_what_only_the_replaced_one_knows(tmp_path, caplog, word):
    text = "pretext: {name: simclr, temperature: 0.5, epochs: 3}"
    loaded = load(tmp_path, text, word).pretext
    assert (loaded.name, loaded.epochs) == ("rotnet", 3)
    assert caplog.messages == [
        "pretext.name=rotnet in place of simclr: left out temperature, which only simclr has."
    ]


def test_the_same_method_leaves_out_nothing(tmp_path, caplog):
    text = "pretext: {temperature: 0.5}"
    assert load(tmp_path, text, "pretext.name=simclr").pretext.temperature == 0.5
    assert not caplog.messages


def test_what_was_said_of_the_new_method_is_not_left_out(tmp_path):
    text = "pretext: {name: simclr, temperature: 0.5}"
    asked = ["pretext.name=rotnet", "pretext.temperature=0.1"]
    assert message(load, tmp_path, text, *asked).startswith("unknown key 'pretext.temperature'. ")
    # Nor is what no method knows.
    text = "pretext: {name: simclr, temparature: 0.5}"
    assert message(load, tmp_path, text, asked[0]).startswith("unknown key 'pretext.temparature'. ")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize(("kind", "section"), catalog.SECTIONS.items())
def test_one_word_picks_any_method_in_every_shipped_config(path, kind, section):
    for name in catalog.available(kind):
        loaded = getattr(config.load(path, [f"{section}.name={name}"]), section)
        assert (loaded.name, type(loaded)) == (name, catalog.config_class(kind, name))


def test_the_defaults_alone_are_an_experiment():
    assert config.Config() == build({})
    assert config.Config().pretext.name == "simclr"


def test_a_config_is_read_and_refused_without_tensorflow():
    code = (
        "import sys, scan_tf\n"
        "from scan_tf import config\n"
        "config.Config()\n"
        "try:\n    config.load('configs/digits_simclr.yaml', ['pretext.tempe=3'])\n"
        "except scan_tf.ScanError: pass\n"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent).returncode == 0


# Values that are understood


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("2E3", 2000.0), ("1.5e-2", 0.015), ("+1e+2", 100.0), ("3", 3.0)],
)
def test_numbers_that_yaml_takes_for_strings_or_integers(tmp_path, text, value):
    lr = load(tmp_path, f"scan: {{optimizer: {{lr: {text}}}}}").scan.optimizer.lr
    assert lr == value
    assert isinstance(lr, float)


@pytest.mark.parametrize("name", catalog.available())
def test_the_short_form_and_the_defaults_of_every_pretext(name):
    loaded = build({"pretext": name}).pretext
    assert type(loaded) is catalog.config_class("pretext", name)
    assert loaded == catalog.config_class("pretext", name)()
    assert loaded == build({"pretext": {"name": name}}).pretext


def test_short_forms_of_data_and_optimizer():
    loaded = build({"data": "cifar10", "scan": {"optimizer": "sgd"}})
    assert loaded.data.name == "cifar10"
    assert loaded.scan.optimizer == dataclasses.replace(config.OptimizerConfig(), name="sgd")


# The pretext `pretrained` trains nothing.
@pytest.mark.parametrize("name", [n for n in catalog.available() if n != "pretrained"])
def test_a_partial_section_keeps_the_other_defaults_of_its_owner(name):
    default = catalog.config_class("pretext", name)().optimizer
    assert default != config.OptimizerConfig()
    loaded = build({"pretext": {"name": name, "optimizer": {"lr": 0.123}}}).pretext.optimizer
    assert loaded == dataclasses.replace(default, lr=0.123)


def test_dump_and_load_give_the_same_config(tmp_path):
    tree = {
        "name": "a run",
        "seed": 3,
        "pretext": {"name": "rotnet", "optimizer": {"lr": 0.5}},
        "augment": {"crop_scale": [0.1, 0.9]},
        "scan": {"num_clusters": 7, "optimizer": "sgd"},
    }
    first = build(tree)
    text = config.dump(first)
    assert load(tmp_path, text) == first
    assert set(yaml.safe_load(text)) == {f.name for f in dataclasses.fields(config.Config)}
    assert isinstance(yaml.safe_load(text)["augment"]["crop_scale"], list)


# What a setting means


@pytest.mark.parametrize(
    ("section", "name"),
    [(s, n) for kind, s in catalog.SECTIONS.items() for n in catalog.available(kind)],
)
def test_every_setting_of_every_method_is_explained(section, name):
    found = list(schema.describe(build({section: name})))
    assert len({d.key for d in found}) == len(found) > 60
    assert [d.key for d in found if not d.help or d.help[-1] == "." or d.help[0] == " "] == []


def test_a_setting_in_words():
    found = {d.key: d for d in schema.describe(build({"pretext": "moco"}))}
    assert found["seed"].kind == f"integer 0 to {2**31 - 1}"
    assert found["scan.optimizer.lr"].kind == "number > 0"
    assert found["scan.heldout_fraction"].kind == "number > 0, <= 0.5"
    assert found["pretext.queue_size"].kind == "integer >= 2, or null"
    assert found["model.stem"].kind == "cifar | strided | stl | imagenet"
    assert (found["augment.crop_scale"].kind, found["augment.crop_scale"].default) == (
        "2 numbers",
        "[0.2, 1]",
    )
    assert found["pretext.optimizer.lr"].default == "0.06"
    assert found["pretext.momentum"].help == "of the key encoder"
    # Replaced by the method with another default, explained by the class that it extends.
    assert (found["pretext.epochs"].default, found["pretext.epochs"].help) == (
        "200",
        "passes over the images",
    )


# The copy of a run


def test_the_copy_of_a_run_tells_damage_from_what_was_written(tmp_path, caplog):
    text = sealed.seal("seed: 4\n")
    path = tmp_path / "config.yaml"
    for written in (text, "seed: 4\n"):
        path.write_text(written)
        assert config.load_run(tmp_path).seed == 4
    assert not caplog.messages
    path.write_text(text.replace("4", "5", 1))  # a bit
    assert config.load_run(tmp_path, ["name=x"]).seed == 5
    (told,) = caplog.messages
    assert told.startswith(f"{path}: is not as the program wrote it. ")
    assert "settings of each stage are in status/" in told


def test_a_folder_without_a_run_is_named(tmp_path):
    assert message(config.load_run, tmp_path) == (
        f"{tmp_path / 'config.yaml'}: no such file. Give --config, or the directory of a run."
    )
