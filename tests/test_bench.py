"""The benchmark scripts at toy size: what they write, and that they compare like with like."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from PIL import Image

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("bench*.py"))


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name; in this process a case is measured by a single call."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(importlib.import_module("bench"), "SHORTEST_S", 1e-9)
    return importlib.import_module


def written(path):
    """The JSON file of a script, its general part checked; results by group and name."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["machine"]["processor"]
    assert "tensorflow" in content["machine"]["packages"]
    for result in content["results"]:
        if "note" not in result:
            assert len(result["seconds"]) == content["arguments"]["repeats"]
            assert 0 < result["rate"]["min"] <= result["rate"]["median"] <= result["rate"]["max"]
            assert result["rate"]["max"] == pytest.approx(result["units"] / min(result["seconds"]))
            assert result["peak_mib"] > 1
            assert result["ratio"] is None or result["ratio"] > 0
    return {(r["group"], r["name"]): r for r in content["results"]}, content


@pytest.mark.parametrize("name", NAMES)
def test_help_comes_without_tensorflow(name):
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}.py ")
    imported = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))
    assert not {"tensorflow", "keras", "numpy", "torch"} & imported


# What they share


def results(bench, *cases):
    made = []
    for group, name, units, seconds, facts in cases:
        case = bench.Case(group, name, None, units=units)
        made.append(bench.Result(case, seconds, facts=facts, peak_mib=7.0))
    return made


def test_ratios_are_of_the_same_round_and_shares_of_the_best_peak(script):
    bench = script("bench")
    peak, *found = results(
        bench,
        (bench.PEAK, "float32", 1, [2.0, 1.0], {"flop": 100.0}),
        ("g", "base", 10, [1.0, 2.0, 4.0], {}),
        ("g", "other", 20, [1.0, 4.0, 1.0], {"flop": 25.0}),
    )
    bench.compare(found, [peak, *found])
    assert found[0].ratios == [1, 1, 1]
    assert found[1].ratios == [2, 1, 8]
    assert found[1].share == 0.25
    assert found[1].rates() == {"median": 20, "min": 5, "max": 20}
    assert found[1].record()["ratio"] == 2
    lines = bench.table(found, "images").splitlines()
    assert lines[1] == "g (ratio to base)"
    assert re.split(r"\s+", lines[4].strip()) == ["other", "20", "5", "20", "2", "7", "25.0%"]


def fails():
    raise ValueError("no such thing")


def works():
    return lambda: {"recall": 0.5}


def test_a_case_that_fails_or_lacks_a_package_is_named_and_the_others_go_on(script, capsys):
    bench = script("bench")
    cases = [
        bench.Case("g", "broken", fails),
        bench.Case("g", "elsewhere", works, needs=("no_such_package",)),
        bench.Case("g", "fine", works),
        bench.Case("h", "left out", works),
    ]
    arguments = bench.parser("test").parse_args(["--inline", "--repeats", "2", "--only", "^g"])
    broken, elsewhere, fine = bench.main(cases, arguments, "things")
    assert (broken.note, broken.seconds) == ("no such thing", [])
    assert elsewhere.note == "not installed: no_such_package"
    assert len(fine.seconds) == 2
    assert fine.facts == {"recall": 0.5}
    assert fine.ratios == []  # there is no baseline to compare with
    printed = capsys.readouterr().out
    assert "no such thing" in printed
    assert "recall 0.5" in printed


def test_every_case_has_a_process_and_a_peak_of_its_own(tmp_path):
    """Run as a user does; without TensorFlow, whose import takes seconds."""
    options = ["--count", "400", "--columns", "8", "--k", "3", "--repeats", "2"]
    path = tmp_path / "found.json"
    command = [sys.executable, SCRIPTS / "bench_neighbors.py", *options, "--json", path]
    done = subprocess.run(
        [*command, "--only", "faiss|scikit"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found, _ = written(path)
    by_name = {name: result for (_, name), result in found.items()}
    assert by_name["scikit-learn brute force"]["recall"] == 1
    if importlib.util.find_spec("faiss"):
        faiss = by_name["faiss IndexFlatIP"]
        assert faiss["recall"] == faiss["ratio"] == 1
        assert faiss["peak_mib"] < by_name["scikit-learn brute force"]["peak_mib"]
    else:
        assert by_name["faiss IndexFlatIP"]["note"] == "not installed: faiss"


# Each of them


def test_neighbors(script, tmp_path, rng, capsys):
    path = tmp_path / "features.npz"
    np.savez(path, train=rng.standard_normal((500, 8), np.float32))
    options = ["--count", "400", "--features", path, "--k", "3", "--trees", "4"]
    options += ["--repeats", "2", "--inline", "--json", tmp_path / "found.json"]
    assert script("bench_neighbors").main([str(o) for o in options]) == 0
    found, content = written(tmp_path / "found.json")
    group = "top 3 of 400, index and search"
    for name in ("scan_tf exact", "TensorFlow matmul + top_k", "scikit-learn brute force"):
        assert found[group, name]["recall"] == 1
    assert 0.5 < found[group, "scan_tf annoy"]["recall"] <= 1
    assert found["annoy, search", "all cores"]["ratio"] > 0
    beside = f"{group}, beside hnswlib"
    assert found[beside, "scan_tf neighbors.index=exact"]["recall"] == 1
    assert 0.5 < found[beside, "scan_tf neighbors.index=annoy"]["recall"] <= 1
    if importlib.util.find_spec("hnswlib"):
        direct, ours = (found[beside, n] for n in ("hnswlib", "scan_tf neighbors.index=hnsw"))
        assert ours["recall"] == pytest.approx(direct["recall"], abs=0.05)
        assert ours["ratio"] > 0
    else:
        assert found[beside, "hnswlib"]["note"] == "not installed: hnswlib"
    assert content["unit"] == "queries"
    assert f"{group} (ratio to faiss IndexFlatIP)" in capsys.readouterr().out


@pytest.mark.usefixtures("eager")
def test_augment(script, tmp_path):
    options = ["--batch", "4", "--size", "8", "--repeats", "2", "--inline"]
    options += ["--only", "Pillow|without XLA|host|Rotate", "--json", str(tmp_path / "found.json")]
    assert script("bench_augment").main(options) == 0
    found, _ = written(tmp_path / "found.json")
    for policy in ("weak", "simclr", "strong"):
        for name in ("scan_tf without XLA", "scan_tf on the host"):
            assert found[policy, name]["ratio"] > 0
    assert found["strong: Rotate", "scan_tf"]["ratio"] > 0
    assert sum(group.startswith("strong: ") for group, _ in found) == 15


def test_the_operations_compared_are_the_same(script, rng):
    from scan_tf.augment import ops

    augment = script("bench_augment")
    assert augment.RANGES == ops.STRONG_OPS
    levels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    for name, (low, high) in augment.RANGES.items():
        magnitude = low + 0.75 * (high - low)
        theirs = np.asarray(augment.pillow_op(name, Image.fromarray(levels), magnitude))
        ours = ops.apply_op(name, tf.cast(levels, tf.float32)[None], magnitude)[0]
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_step(script, tmp_path):
    options = ["--batch", "4", "--size", "8", "--backbone", "resnet10", "--width", "4"]
    options += ["--peak-size", "64", "--repeats", "1", "--inline"]
    options += ["--only", "peak|(float32|16)$", "--json", str(tmp_path / "found.json")]
    module = script("bench_step")
    assert module.main(options) == 0
    found, content = written(tmp_path / "found.json")
    for stage in module.STAGES:
        for dtype in ("float32", "mixed_bfloat16"):
            result = found[stage, f"scan_tf {dtype}"]
            assert result["units"] == (4 if stage == "inference" else 8)
            assert result["share_of_peak"] > 0
    costs = {stage: found[stage, "scan_tf float32"]["flop"] for stage in module.STAGES}
    assert [costs[s] / costs["inference"] for s in module.STAGES] == [6, 6, 4, 1]


@pytest.mark.slow
def test_compile(script, tmp_path):
    options = ["--batch", "4", "--size", "8", "--backbone", "resnet10", "--width", "4"]
    options += ["--repeats", "1", "--dtype", "float32", "--stages", "scan"]
    options += ["--only", "as it is|twice|steps", "--json", str(tmp_path / "found.json")]
    assert script("bench_compile").main(options) == 0
    found, _ = written(tmp_path / "found.json")
    for name, units in (("as it is", 8), ("twice the batch", 16), ("8 steps a call", 64)):
        result = found["scan", name]
        assert (result["units"], np.isfinite(result["loss"])) == (units, True)
        assert result["ready_s"] > result["seconds"][0] > 0


def test_input(script, tmp_path):
    options = ["--images", "6", "--size", "16", "--batch", "4", "--repeats", "1", "--inline"]
    options += ["--only", "decoded|batches", "--json", str(tmp_path / "found.json")]
    assert script("bench_input").main(options) == 0
    found, _ = written(tmp_path / "found.json")
    for name in ("into memory", "into a file"):
        result = found["files, decoded", f"scan_tf {name}"]
        assert result["ratio"] > 0
        assert 0 < result["a CPU second"] < 1e4
    for name in ("from memory", "from file"):
        result = found["an epoch of batches", f"scan_tf {name}"]
        assert (result["units"], result["ratio"] > 0) == (4, True)


@pytest.mark.slow
def test_input_of_views_from_a_folder_of_ones_own(script, tmp_path):
    module = script("bench_input")
    module.photos(str(tmp_path / "own"), 5)
    options = ["--images", "3", "--size", "16", "--batch", "2", "--repeats", "1", "--inline"]
    options += ["--folder", str(tmp_path / "own"), "--json", str(tmp_path / "found.json")]
    assert module.main(options) == 0
    found, _ = written(tmp_path / "found.json")
    for name, units in (("tf.data", 3), ("scan_tf from memory", 2), ("scan_tf from file", 2)):
        assert found["an epoch of two views", name]["units"] == units


def test_the_images_compared_are_the_same(script, tmp_path):
    module = script("bench_input")
    folder, cache = str(tmp_path / "photos"), str(tmp_path / "cache")
    paths = module.photos(folder, 3)
    ours = module.images_of(folder, 3, 64, "always", cache).images[:].astype(int)
    theirs = np.stack([module.centre(path, 64) for path in paths]).astype(int)
    # Two programs that reduce an image: as much as each other, and not as much as another image.
    assert np.abs(ours - theirs).mean() < 2
    assert np.abs(ours - theirs[::-1]).mean() > 20


@pytest.mark.parametrize("name", ["resnet10", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_the_networks_compared_are_the_same(script, name):
    pytest.importorskip("torch")
    import torch

    from scan_tf.config import ModelConfig
    from scan_tf.models import resnet

    step = script("bench_step")
    theirs, dim = step.torch_resnet({"backbone": name, "width": 4})
    ours = resnet.build(ModelConfig(name, width=4), image_size=16, dtype="float32")
    assert ours.feature_dim == dim
    sizes = [sorted(p.numel() for p in theirs.parameters())]
    sizes += [sorted(int(np.prod(v.shape)) for v in ours.trainable_variables)]
    assert sizes[0] == sizes[1]
    assert step.torch_flop(theirs, torch.zeros(1, 3, 16, 16)) == step.forward_flop(ours, 16)
    wide = resnet.build(ModelConfig(), image_size=32, dtype="float32")
    # ResNet-18 at 32 x 32: 0.56 G multiplications and as many additions.
    assert step.forward_flop(wide, 32) == pytest.approx(1.11e9, rel=0.01)


def test_exponents_of_power_laws(script):
    bench, pipeline = script("bench"), script("bench_pipeline")
    found = results(
        bench,
        ("squared", "1,000", 1, [1.0, 9.0, 2.0], {}),
        ("squared", "2,000", 1, [8.0], {}),
        ("squared", "4,000", 1, [32.0], {}),
        ("root", "10", 1, [1.0], {}),
        ("root", "40", 1, [2.0], {}),
    )
    curves = pipeline.exponents(found)
    assert curves["squared"]["sizes"] == [1000, 2000, 4000]
    assert curves["squared"]["seconds"] == [2, 8, 32]
    assert curves["squared"]["exponent"] == pytest.approx(2)
    assert curves["root"]["exponent"] == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_pipeline(script, tmp_path, capsys):
    images = tiny_runs.write_splits(tmp_path / "images")
    config = tiny_runs.write_config(tmp_path / "tiny.yaml", images)
    epochs = [f"{stage}.epochs=1" for stage in ("pretext", "scan", "selflabel")]
    sizes = {"images": [200, 400], "clusters": [4, 8], "K": [2, 4]}
    options = ["--config", config, "--set", *epochs, "--sizes", json.dumps(sizes), "--inline"]
    options += ["--only", "whole|exact|scores|with clusters|cached.*1000"]
    options += ["--plot", tmp_path / "growth.png", "--json", tmp_path / "found.json"]
    assert script("bench_pipeline").main([str(o) for o in options]) == 0
    found, content = written(tmp_path / "found.json")
    run = found["whole run", "tiny"]
    assert list(run["stages"]) == [
        "pretext",
        "neighbors",
        "scan",
        "selflabel",
        "evaluate",
        "export",
    ]
    assert all(seconds > 0 for seconds in run["stages"].values())
    assert "report.write" in run["report"]
    assert found["epoch of 10 heads on 50,000 cached features", "batch 1000"]["units"] == 50_000
    assert set(content["growth"]) == {
        "growth with images: mining, exact",
        "growth with images: scores",
        "growth with clusters: epoch of 10 heads",
        "growth with clusters: scores",
        "growth with clusters: k-means",
        "growth with clusters: agreement of heads",
        "growth with K: mining, exact",
    }
    for curve in content["growth"].values():
        assert np.isfinite(curve["exponent"])
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > 500
    printed = capsys.readouterr().out
    assert "stages, seconds" in printed
    assert "report, seconds" in printed
