"""Weights go from PyTorch into a run and back; the networks in PyTorch are torch_networks.py."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re

import numpy as np
import official_names
import pytest
import tensorflow as tf
import tiny_runs

from scan_tf.config import ModelConfig
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.models import resnet
from scan_tf.models.heads import ClusterHeads, ProjectionHead
from scan_tf.models.torch_names import load_torch, to_torch
from scan_tf.pipeline import build, porting, stages
from scan_tf.pipeline.record import Record

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")

import torch_networks as ported  # noqa: E402 - needs PyTorch

SMALL = (1, 1, 1, 1)
CLUSTERS = len(tiny_runs.CLASSES)
SAVED = "weights.pth.tar"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny_runs.write_splits(tmp_path_factory.mktemp("images"))


@pytest.fixture
def run(images, tmp_path):
    """Opens a new run; its backbone is a ResNet-10 of width 4 for images of 8 pixels."""

    def new(*overrides, name="run"):
        (tmp_path / name).mkdir()
        network = "model.backbone=resnet10"  # which PyTorch has too
        tiny_runs.write_config(tmp_path / name / "config.yaml", images, network, *overrides)
        return tiny_runs.opened(tmp_path / name)

    return new


def contrastive(**options):
    backbone = ported.ResNet(options.pop("blocks", SMALL), **options)
    return ported.randomised(ported.Contrastive(backbone, 8))


def clustering(heads=1, clusters=CLUSTERS):
    return ported.randomised(ported.Clustering(ported.ResNet(SMALL), clusters, heads))


def pixels(work, count=6):
    """Images f32 [B,S,S,3] in 0..1, normalised ones, and what PyTorch's networks make of those."""
    train = work.train_images
    batch = train.images[:count].astype(np.float32) / 255
    prepared = build.new_backbone(work).normalise(batch)

    def outputs(network):
        with torch.no_grad():
            return network(torch.tensor(np.asarray(prepared)).permute(0, 3, 1, 2))

    return batch, np.asarray(prepared), outputs


def assert_close(ours, theirs):
    """Agreement to 1e-4 of the largest value."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
    assert np.std(theirs, axis=0).max() > 0.01 * np.abs(theirs).max()  # images do differ


def assert_same_weights(model, expected):
    """Every tensor but BatchNorm's counters is equal, bit for bit."""
    expected = expected.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, expected[name]), name


# Names


def test_load_torch_names_all_that_does_not_fit_and_assigns_nothing():
    model = resnet.build(ModelConfig("resnet10", width=4), image_size=8, dtype="float32")
    before = model.conv1.kernel.numpy()
    tensors = official_names.tensors(official_names.backbone(SMALL, width=4))
    for name in ("bn1.weight", "layer3.0.shortcut.0.weight"):
        del tensors[f"backbone.{name}"]
    tensors |= {"backbone.fc.weight": np.zeros((2, 32)), "other.weight": np.zeros(3)}
    tensors |= {"backbone.layer1.0.bn1.num_batches_tracked": np.zeros([])}
    tensors["backbone.bn1.bias"] = np.zeros(7)
    expected = (
        "2 of 60 tensors are missing: 'backbone.bn1.weight', 'backbone.layer3.0.shortcut.0.weight';"
        " 1 surplus: 'backbone.fc.weight'; 1 of another shape (in TensorFlow's layout): "
        "'backbone.bn1.bias' should be (4,), is (7,). "
    )
    with pytest.raises(DataError, match=re.escape(expected)):
        load_torch(model, tensors, "backbone.")
    np.testing.assert_array_equal(model.conv1.kernel, before)


def test_load_torch_names_the_first_and_the_counts():
    model = resnet.build(ModelConfig("resnet10", width=4), image_size=8, dtype="float32")
    with pytest.raises(DataError, match=r": 60 of 60 tensors are missing: ('[^']*', ){3}\.\.\.\. "):
        load_torch(model, {})


def official_shapes(*named):
    shapes = {name: shape for names in named for name, shape in names}
    counters = [name for name in shapes if name.endswith("running_var")]
    return shapes | {n.replace("running_var", "num_batches_tracked"): () for n in counters}


def test_to_torch_gives_the_official_names_and_shapes():
    model = resnet.build(ModelConfig("resnet10", width=4), image_size=8, dtype="float32")
    projector, heads = ProjectionHead(32, 32, 8), ClusterHeads(2, 3)
    heads.build((None, 32))
    tensors = to_torch(model, "backbone.") | to_torch(projector, "contrastive_head.")
    tensors |= to_torch(heads, "cluster_head.")
    assert {n: t.shape for n, t in tensors.items()} == official_shapes(
        official_names.backbone(SMALL, width=4),
        official_names.contrastive_head(32, 8),
        official_names.cluster_heads(2, 3, 32),
    )
    assert {t.dtype for n, t in tensors.items() if "num_batches" in n} == {np.dtype(np.int64)}
    assert {t.dtype for n, t in tensors.items() if "num_batches" not in n} == {np.dtype("f4")}


@pytest.mark.parametrize("stem", ["cifar", "stl"])
def test_the_names_are_those_of_the_official_code(shared, stem):
    oracle = json.loads((shared / "oracles" / "networks_tensors.json").read_text(encoding="utf-8"))
    named = official_shapes(official_names.backbone(), official_names.contrastive_head())
    assert named == {name: tuple(shape) for name, shape in oracle[stem]}


# There and back


@pytest.mark.parametrize("stem", ["cifar", "stl"])
def test_a_pretext_goes_in_and_comes_back(run, tmp_path, stem):
    work = run(f"model.stem={stem}", "data.image_size=16")
    model = contrastive(stem=stem)
    torch.save(model.state_dict(), tmp_path / SAVED)
    assert porting.import_checkpoint(work, tmp_path / SAVED) == "pretext"

    task = build.trained_pretext(work)
    batch, prepared, outputs = pixels(work)
    assert_close(task.backbone(prepared), outputs(model.backbone))
    assert_close(task.embed(batch), outputs(model))

    folder = porting.export_torch(work)
    assert [p.name for p in folder.iterdir()] == ["pretext.pth.tar"]
    other = contrastive(stem=stem)
    other.load_state_dict(torch.load(folder / "pretext.pth.tar", weights_only=True), strict=True)
    assert_same_weights(other, model)


def test_the_record_says_where_the_weights_are_from(run, tmp_path, capsys):
    work = run()
    torch.save(contrastive().state_dict(), tmp_path / SAVED)
    porting.import_checkpoint(work, tmp_path / SAVED)
    record = work.record("pretext")
    digest = hashlib.sha256((tmp_path / SAVED).read_bytes()).hexdigest()
    assert record.is_done
    assert record.result["imported_from"] == {"file": SAVED, "sha256": digest}
    assert capsys.readouterr().out == ""
    # The stages go on from there.
    for stage in ("pretext", "neighbors"):
        stages.run_stage(work, stage)
    assert "pretext: done before" in capsys.readouterr().out
    assert work.is_done("neighbors")


def test_a_scan_model_goes_in_and_comes_back(run, tmp_path):
    work = run()
    model = clustering(heads=3)
    torch.save({"model": model.state_dict(), "head": np.int64(2)}, tmp_path / SAVED)
    assert porting.import_checkpoint(work, tmp_path / SAVED) == "scan"
    assert work.record("scan").result["head"] == 2
    best = json.loads((work.folder("scan") / "best.json").read_text(encoding="utf-8"))
    assert best == {"head": 2}

    backbone, heads = build.trained_clusters(work, "scan")
    _, prepared, outputs = pixels(work)
    assert_close(heads(backbone(prepared))[0], outputs(model)[2])

    saved = torch.load(porting.export_torch(work) / "scan.pth.tar", weights_only=True)
    assert saved.keys() == {"model", "head"}
    assert saved["head"] == 0
    other = clustering()
    other.load_state_dict(saved["model"], strict=True)
    model.cluster_head = torch.nn.ModuleList([model.cluster_head[2]])
    assert_same_weights(other, model)


@pytest.mark.slow
def test_the_savedmodel_of_imported_weights_gives_pytorchs_numbers(run, tmp_path):
    work = run()
    model = clustering()
    torch.save({"model": model.state_dict(), "head": 0}, tmp_path / SAVED)
    porting.import_checkpoint(work, tmp_path / SAVED)
    stages.run_stage(work, "export")
    _, _, outputs = pixels(work)
    exported = tf.saved_model.load(str(work.folder("export"))).signatures["serving_default"]
    ours = exported(images=tf.constant(work.train_images.images[:6]))
    assert_close(ours["features"], outputs(model.backbone))
    probabilities = torch.softmax(outputs(model)[0], dim=1)
    np.testing.assert_allclose(ours["probabilities"], probabilities, atol=1e-4)
    np.testing.assert_array_equal(ours["cluster"], probabilities.argmax(1))


@pytest.mark.slow
def test_a_self_labelled_model_goes_in_and_comes_back(run, tmp_path):
    work = run()
    model = clustering()
    torch.save({f"module.{n}": t for n, t in model.state_dict().items()}, tmp_path / SAVED)
    assert porting.import_checkpoint(work, tmp_path / SAVED) == "selflabel"
    backbone, heads = build.trained_clusters(work, "selflabel")
    _, prepared, outputs = pixels(work)
    assert_close(heads(backbone(prepared))[0], outputs(model)[0])
    stages.run_stage(work, "export")
    assert work.record("export").result["weights_of"] == "selflabel"
    folder = porting.export_torch(work)
    assert [p.name for p in folder.iterdir()] == ["selflabel.pth.tar"]
    other = clustering()
    other.load_state_dict(torch.load(folder / "selflabel.pth.tar", weights_only=True), strict=True)
    assert_same_weights(other, model)


def moco_file(path, fc, **options):
    """A checkpoint of MoCo: the last layer `fc` of the network is the projector."""
    model = ported.randomised(ported.ResNet(stem="imagenet", fc=fc, **options))
    key = ported.randomised(copy.deepcopy(model), seed=1)
    state = {f"module.encoder_q.{n}": t for n, t in model.state_dict().items()}
    state |= {f"module.encoder_k.{n}": t for n, t in key.state_dict().items()}
    state |= {"module.queue": torch.randn(8, 16), "module.queue_ptr": torch.zeros(1).long()}
    content = {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(content, path)
    return model


def moco_v2_file(path):
    """The same of a ResNet-50, as published, but for the width."""
    fc = ported.projector(4 * 8 * 4, 8)
    return moco_file(path, fc, blocks=(3, 4, 6, 3), bottleneck=True)


def test_a_moco_checkpoint_goes_in_and_comes_back(run, tmp_path, capsys):
    large = ("model.backbone=resnet50", "model.stem=imagenet", "data.image_size=32")
    work = run(*large, "pretext=moco")
    model = moco_v2_file(tmp_path / SAVED)
    assert porting.import_checkpoint(work, tmp_path / SAVED) == "pretext"
    assert capsys.readouterr().out == ""
    backbone, head = copy.deepcopy(model), model.fc
    backbone.fc = torch.nn.Identity()
    batch, prepared, outputs = pixels(work)
    task = build.trained_pretext(work)
    assert_close(task.backbone(prepared), outputs(backbone))
    normalised = torch.nn.functional.normalize
    assert_close(task.embed(batch), normalised(outputs(backbone), dim=1))
    projected = task.projector(task.backbone(prepared))
    assert_close(projected, normalised(outputs(model), dim=1))

    saved = torch.load(porting.export_torch(work) / "pretext.pth.tar", weights_only=True)
    other = ported.Contrastive(copy.deepcopy(backbone), 8)
    other.load_state_dict(saved, strict=True)
    assert_same_weights(other.backbone, backbone)
    assert_same_weights(other.contrastive_head, head)


def test_moco_v1_has_another_projector(run, tmp_path, capsys):
    work = run("model.stem=imagenet", "pretext=moco")
    model = moco_file(tmp_path / SAVED, torch.nn.Linear(32, 8), blocks=SMALL)
    porting.import_checkpoint(work, tmp_path / SAVED)
    assert capsys.readouterr().out == (
        "  not in the file, left as new: projector\n  in the file, but not used: contrastive_head\n"
    )
    result = work.record("pretext").result
    assert result["new_networks"] == ["projector"]
    assert result["unused_in_file"] == ["contrastive_head"]
    kernel = tiny_runs.weights(work.root, "pretext")["backbone/conv1/kernel"]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), model.conv1.weight.detach())


def test_a_bare_backbone_is_enough_for_a_pretext_that_embeds_by_it(run, tmp_path):
    work = run("pretext=rotnet")
    state = contrastive().backbone.state_dict()
    torch.save(state | {"fc.weight": torch.zeros(10, 32)}, tmp_path / SAVED)
    assert porting.import_checkpoint(work, tmp_path / SAVED) == "pretext"
    assert work.record("pretext").result["unused_in_file"] == ["fc"]


def test_it_is_not_enough_for_simclr(run, tmp_path):
    work = run()
    torch.save(contrastive().backbone.state_dict(), tmp_path / SAVED)
    expected = r"no weights for projector, by which the pretext 'simclr' finds neighbours"
    with pytest.raises(DataError, match=expected):
        porting.import_checkpoint(work, tmp_path / SAVED)
    assert work.record("pretext") == Record()  # nothing was left behind


# What does not fit


def test_another_network_is_named_with_the_settings(run, tmp_path):
    work = run("pretext=rotnet")
    moco_v2_file(tmp_path / SAVED)
    expected = (
        r"model: .*weights.pth.tar does not fit backbone=resnet10, stem=cifar, width=4. Its network"
        r" has 3-4-6-3 bottlenecks, width 4, a 7x7 stem. .* missing: .* surplus: .* another shape"
    )
    with pytest.raises(ConfigError, match=expected):
        porting.import_checkpoint(work, tmp_path / SAVED)
    assert work.record("pretext") == Record()


def test_another_projection_is_named_with_the_settings(run, tmp_path):
    work = run("model.projection_dim=16")
    torch.save(contrastive().state_dict(), tmp_path / SAVED)
    with pytest.raises(ConfigError, match=r"projection_dim=16.*'contrastive_head.2.weight' should"):
        porting.import_checkpoint(work, tmp_path / SAVED)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [((), "is not set, and the number of classes is 3"), (("scan.num_clusters=4",), "is 4")],
)
def test_another_number_of_clusters_is_named(run, tmp_path, overrides, problem):
    work = run(*overrides)
    torch.save(clustering(clusters=7).state_dict(), tmp_path / SAVED)
    expected = f"scan.num_clusters: {problem}, but .* has 7 clusters. Set scan.num_clusters=7."
    with pytest.raises(ConfigError, match=expected):
        porting.import_checkpoint(work, tmp_path / SAVED)


def test_several_heads_need_the_number_of_the_best(run, tmp_path):
    work = run()
    model = clustering(heads=3)
    torch.save(model.state_dict(), tmp_path / SAVED)
    with pytest.raises(DataError, match=r"holds 3 cluster heads .* number, 0 to 2, with --head"):
        porting.import_checkpoint(work, tmp_path / SAVED)
    with pytest.raises(DataError, match=r"holds no cluster head 3, but 0, 1, 2\."):
        porting.import_checkpoint(work, tmp_path / SAVED, head=3)
    assert porting.import_checkpoint(work, tmp_path / SAVED, head=1) == "scan"
    kept = tiny_runs.weights(work.root, "scan")["heads/0/kernel"]
    np.testing.assert_array_equal(kept, model.cluster_head[1].weight.detach().T)


def test_the_stage_can_be_said(run, tmp_path):
    work = run("pretext=rotnet")
    torch.save({"model": clustering().state_dict(), "head": 0}, tmp_path / SAVED)
    for stage in ("pretext", "scan", "selflabel"):
        assert porting.import_checkpoint(work, tmp_path / SAVED, stage=stage) == stage
        assert work.is_done(stage)
    files = {p.name for p in porting.export_torch(work).iterdir()}
    assert files == {"pretext.pth.tar", "scan.pth.tar", "selflabel.pth.tar"}
    work.redo("scan")
    assert [p.name for p in porting.export_torch(work).iterdir()] == ["pretext.pth.tar"]


def test_a_stage_without_its_weights_in_the_file(run, tmp_path):
    torch.save(contrastive().state_dict(), tmp_path / SAVED)
    with pytest.raises(DataError, match=r"holds no cluster head .*--stage pretext"):
        porting.import_checkpoint(run(), tmp_path / SAVED, stage="scan")


def test_a_stage_that_is_done_or_started_is_not_replaced(run, tmp_path):
    work = run()
    torch.save(contrastive().state_dict(), tmp_path / SAVED)
    porting.import_checkpoint(work, tmp_path / SAVED)
    before = tiny_runs.snapshot(work.root)
    with pytest.raises(StageError, match=r"'pretext' has been done already.*--redo pretext"):
        porting.import_checkpoint(work, tmp_path / SAVED)
    assert tiny_runs.snapshot(work.root) == before

    work = run(name="other")
    with contextlib.suppress(KeyboardInterrupt), work.working("pretext"):
        (work.folder("pretext") / "ckpt").mkdir(parents=True)
        raise KeyboardInterrupt
    with pytest.raises(StageError, match=r"'pretext' has been started already.*--redo pretext"):
        porting.import_checkpoint(work, tmp_path / SAVED)


def test_redo_replaces_a_stage_once_the_new_file_is_read(run, tmp_path):
    work = run()
    torch.save(contrastive().state_dict(), tmp_path / SAVED)
    porting.import_checkpoint(work, tmp_path / SAVED)
    work.folder("neighbors").mkdir()
    before = tiny_runs.snapshot(work.root)
    torch.save(contrastive(width=8).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ConfigError, match="of another shape"):
        porting.import_checkpoint(work, tmp_path / "wide.pth", redo=True)
    assert tiny_runs.snapshot(work.root) == before

    with torch.no_grad():
        other = contrastive()
        other.backbone.conv1.weight.mul_(2)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    porting.import_checkpoint(work, tmp_path / "other.pth", redo=True)
    assert not work.folder("neighbors").exists()
    loaded = build.trained_pretext(work).backbone.conv1.kernel
    np.testing.assert_array_equal(loaded, other.backbone.conv1.weight.detach().permute(2, 3, 1, 0))


def test_a_file_of_something_else(run, tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / SAVED)
    with pytest.raises(DataError, match=r"holds no ResNet.* It has: weight, bias, \.\.\."):
        porting.import_checkpoint(run(), tmp_path / SAVED)


def test_nothing_to_export(run):
    with pytest.raises(StageError, match="the stage 'pretext' has not finished. Run: scan-tf"):
        porting.export_torch(run())
