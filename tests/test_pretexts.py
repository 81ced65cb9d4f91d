"""What is particular to a pretext; what all of them must do is in `test_conformance.py`."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import small_tasks
import tensorflow as tf
from small_tasks import BATCH, COUNT, SIZE, Given, backbone, batch, trainer, values

from scan_tf.config import OptimizerConfig
from scan_tf.errors import ConfigError
from scan_tf.methods import catalog, pretext_losses, swav_loss
from scan_tf.methods.losses import nt_xent, rotation_cross_entropy
from scan_tf.methods.pretext import (
    byol,
    dcl,
    feature_decoupling,
    nce,
    rotnet,
    simclr,
    simsiam,
    swav,
    vicreg,
)
from scan_tf.methods.pretext.rotnet import rotations

pytestmark = pytest.mark.usefixtures("seeded")
NARROW = {"hidden": 24, "dim": 16}


def make(module, *, num_images=COUNT, **settings):
    config = module.Config(**settings)
    return module.Method(config, backbone(), projection_dim=8, num_images=num_images)


def pictures(count=3):
    return tf.random.stateless_normal([count, SIZE, SIZE, 3], [1, 2])


# Settings


@pytest.mark.parametrize("name", ["byol", "simclr", "moco", "swav", "vicreg"])
def test_views_differ_as_the_config_says(name):
    settings = {"blur": (1.0, 0.1), "solarize": (0.0, 0.2)}
    config = catalog.config_class("pretext", name)(**settings)
    method = catalog.method_class("pretext", name)
    task = method(config, backbone(), projection_dim=8, num_images=4096)
    assert [v.options for v in task.views.values()] == [
        {"blur": 1.0, "solarize": 0.0},
        {"blur": 0.1, "solarize": 0.2},
    ]
    with pytest.raises(ConfigError, match=r"^blur\[1\]: must be at most 1, got 1.5"):
        dataclasses.replace(config, blur=(0.0, 1.5))


def test_only_vicreg_has_views_that_differ_unless_told():
    for name in ("barlow_twins", "byol", "dcl", "moco", "simclr", "simsiam", "swav"):
        config = catalog.config_class("pretext", name)()
        assert (config.blur, config.solarize) == ((0, 0), (0, 0))
    assert vicreg.Config().solarize == (0, 0.1)


# SwAV


def test_prototypes_stay_for_an_epoch_and_have_length_one(tmp_path):
    task = make(swav, num_images=2 * BATCH, batch_size=BATCH, prototypes=6, **NARROW)
    before = np.asarray(task.prototypes).copy()
    loop = trainer(task, Given([batch(task)]), tmp_path, optimizer=OptimizerConfig("sgd", lr=0.5))
    for expected in (False, False, True):
        loop.update(batch(task))
        now = np.asarray(task.prototypes)
        np.testing.assert_allclose(np.linalg.norm(now, axis=1), 1, rtol=1e-5)
        assert (np.abs(now - before).max() > 1e-5) == expected


@pytest.mark.parametrize("scale", [(0.0, 0.5), (0.5, 0.2)])
def test_small_crops_that_show_nothing_are_refused(scale):
    with pytest.raises(ConfigError, match=r"^local_scale: expected 0 < low <= high, got \["):
        swav.Config(local_scale=scale)


def test_small_crops_show_small_parts_and_tell_the_assignments_of_large_ones():
    task = make(swav, local_crops=3, local_size=8, local_scale=(0.1, 0.2), **NARROW)
    local = task.views["local"]
    assert (local.size, local.count, local.options) == (8, 3, {"area": (0.1, 0.2)})
    given = batch(task)
    assert given["local"].shape == (3 * BATCH, 8, 8, 3)
    views = [task.projector(task.backbone(given[n], training=True), training=True) for n in "ab"]
    rows = task.projector(task.backbone(given["local"], training=True), training=True)
    expected = swav_loss.swav_loss(views, task.prototypes, others=tf.split(rows, 3))
    np.testing.assert_allclose(task.loss(given)[0], expected, rtol=1e-5)


# SimCLR and DCL


def test_the_losses_of_simclr():
    task = make(simclr)
    given = batch(task)
    both = tf.concat([given["a"], given["b"]], 0)
    a, b = tf.split(task.projector(task.backbone(both, training=True)), 2)
    expected = {
        "ntxent": nt_xent(a, b, 0.1, symmetric=True),
        "dcl": pretext_losses.dcl(a, b, 0.1),
        "dclw": pretext_losses.dcl(a, b, 0.1, sigma=0.5),
    }
    for loss, value in expected.items():
        task.config = simclr.Config(loss=loss)
        np.testing.assert_allclose(task.loss(given)[0], value, rtol=1e-5)
    assert len({round(float(v), 4) for v in expected.values()}) == 3


def test_dcl_is_simclr_with_another_loss():
    ours, theirs = dcl.Config(), simclr.Config()
    assert dcl.Method is simclr.Method
    assert (ours.name, ours.loss) == ("dcl", "dcl")
    changed = {f.name for f in dataclasses.fields(ours)} - {"name", "loss"}
    assert all(getattr(ours, name) == getattr(theirs, name) for name in changed)


def test_the_width_of_simclr_s_projector():
    assert make(simclr).projector.dims[1] == backbone().feature_dim
    assert make(simclr, hidden=5).projector.dims[1] == 5


# BYOL


def test_the_momentum_of_byol_s_target_goes_to_1_along_a_cosine(tmp_path):
    task = make(byol, **NARROW, epochs=3, batch_size=BATCH, momentum=0.9)
    assert task.total_updates == 3 * COUNT // BATCH == 12
    found = []
    for k in range(14):
        task.updates.assign(k)
        found.append(float(task.momentum()))
    expected = [1 - 0.1 * (math.cos(math.pi * min(k, 12) / 12) + 1) / 2 for k in range(14)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0] == pytest.approx(0.9)
    assert found[12] == found[13] == 1
    constant = make(byol, **NARROW, momentum=0.9, momentum_schedule="constant")
    constant.updates.assign(7)
    assert float(constant.momentum()) == pytest.approx(0.9)


def test_an_update_moves_the_target_by_the_momentum_of_its_step(tmp_path):
    task = make(byol, **NARROW, epochs=1, batch_size=BATCH, momentum=0.5)
    pairs = [
        (copy, weight)
        for name, (weights, _) in task.target.copies.items()
        for copy, weight in zip(weights, task.networks[name].trainable_variables, strict=True)
    ]
    assert set(task.target.copies) == {"backbone", "projector"}
    task.updates.assign(2)  # of four: half of the cosine
    before = values([copy for copy, _ in pairs])
    optimizer = OptimizerConfig("sgd", lr=0.5)
    trainer(task, Given([batch(task)]), tmp_path, optimizer=optimizer).run()
    assert task.updates == 3
    for (copy, weight), old in zip(pairs, before, strict=True):
        np.testing.assert_allclose(copy, 0.75 * old + 0.25 * np.asarray(weight), atol=1e-6)
        assert (np.asarray(weight) != old).any()


def test_byol_s_loss_by_hand():
    """Each view by itself through both networks, in training mode; both orders added."""
    task, fixed = make(byol, **NARROW), make(byol, **NARROW)
    for ours, theirs in zip(fixed.state, task.state, strict=True):
        ours.assign(theirs)
    weights = task.target.copies["backbone"][0]
    for copy, other in zip(weights, fixed.backbone.trainable_variables, strict=True):
        copy.assign(1.2 * copy)
        other.assign(copy)
    given = batch(task)
    loss, metrics = task.loss(given)
    expected = 0.0
    for online, target in (("a", "b"), ("b", "a")):
        z = task.projector(task.backbone(given[online], training=True), training=True)
        p = np.asarray(task.predictor(z, training=True))
        t = np.asarray(fixed.projector(fixed.backbone(given[target], training=True), training=True))
        lengths = np.linalg.norm(p, axis=1) * np.linalg.norm(t, axis=1)
        expected += np.mean(2 - 2 * np.sum(p * t, 1) / lengths)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert 0 < float(metrics["spread"]) < 2


def test_byol_s_target_gets_no_gradient():
    task = make(byol, **NARROW)
    copies = [v for weights, _ in task.target.copies.values() for v in weights]
    with tf.GradientTape() as tape:
        tape.watch(copies)
        loss, _ = task.loss(batch(task))
    assert tape.gradient(loss, copies) == [None] * len(copies)


# SimSiam


def test_simsiam_s_predictor_learns_at_a_constant_rate(tmp_path):
    narrow = {"dim": 16, "bottleneck": 8}
    task = make(simsiam, **narrow)
    assert task.constant_rate_variables == task.predictor.trainable_variables
    assert make(simsiam, **narrow, constant_predictor_lr=False).constant_rate_variables == []
    # In the second of two epochs the cosine is at half of the rate.
    optimizer = OptimizerConfig("sgd", lr=0.2, momentum=0.0, l2=0.1, schedule="cosine")
    loop = trainer(task, Given([batch(task)]), tmp_path, optimizer=optimizer, epochs=2)
    loop.step.assign(1)
    given = batch(task)
    with tf.GradientTape() as tape:
        loss, _ = task.loss(given)
    slopes = tape.gradient(loss, task.trainable_variables)
    before = values(task.trainable_variables)
    rate = float(loop.update(given)["lr"])
    assert rate == pytest.approx(0.1, rel=0.01)
    predictor = {id(v) for v in task.predictor.trainable_variables}
    for variable, old, slope in zip(task.trainable_variables, before, slopes, strict=True):
        own_rate = 0.2 if id(variable) in predictor else rate
        expected = old - own_rate * (np.asarray(slope) + 0.1 * old)
        np.testing.assert_allclose(variable, expected, rtol=1e-3, atol=1e-4)


def test_simsiam_s_projections_are_normalised_without_scale():
    task = make(simsiam, dim=16, bottleneck=8)
    given = batch(task)
    z = task.projector(task.backbone(given["a"], training=True), training=True)
    np.testing.assert_allclose(np.mean(z, 0), np.zeros(16), atol=1e-5)
    np.testing.assert_allclose(np.std(z, 0), np.ones(16), atol=0.01)


# Instance discrimination


def test_rows_of_the_memory_follow_the_images_whatever_their_order(tmp_path):
    task = make(nce)
    source = small_tasks.loader(task)
    start = np.asarray(task.bank.rows).copy()
    loop = trainer(task, source, tmp_path)
    seen = set()
    for inputs in source.inputs(0, 2):
        loop.update(inputs)
        seen |= set(np.asarray(inputs["index"]).tolist())
    moved = np.flatnonzero((np.asarray(task.bank.rows) != start).any(1))
    assert moved.tolist() == sorted(seen)
    assert len(seen) == 2 * BATCH
    np.testing.assert_allclose(np.linalg.norm(task.bank.rows[moved[0]]), 1, rtol=1e-5)


# Feature decoupling


def test_the_terms_of_feature_decoupling():
    task = make(feature_decoupling)
    given = batch(task)
    loss, metrics = task.loss(given)
    features = np.asarray(task.backbone(rotations(given["image"]), training=True))
    half = features.shape[1] // 2
    turned = features[:, half:].reshape(4, BATCH, half)
    mean = turned.mean(0)
    np.testing.assert_allclose(metrics["invariance"], ((turned - mean) ** 2).mean(), rtol=1e-4)
    labels = np.repeat(np.arange(4), BATCH)
    logits = task.head(features[:, :half])
    rotation = rotation_cross_entropy(logits, labels)
    np.testing.assert_allclose(metrics["rotation"], rotation, rtol=1e-4)
    accuracy = np.mean(np.argmax(logits, 1) == labels)
    np.testing.assert_allclose(metrics["rotation_acc"], accuracy)
    rows = task.projector(mean)
    bank, index = task.bank.rows, given["index"]
    instance = pretext_losses.instance_softmax(rows, bank, index, task.config.temperature)
    np.testing.assert_allclose(metrics["instance"], instance, rtol=1e-4)
    probed = rotation_cross_entropy(task.probe(features[:, half:]), labels)
    total = rotation + instance + metrics["invariance"] + probed
    np.testing.assert_allclose(loss, total, rtol=1e-4)


def test_the_probe_of_the_invariant_half_teaches_the_backbone_nothing():
    task = make(feature_decoupling)
    given = batch(task)
    watched = task.backbone.trainable_variables
    slopes = []
    for scale in (1.0, 50.0):
        for variable in task.probe.trainable_variables:
            variable.assign(scale * variable)
        with tf.GradientTape() as tape:
            loss, _ = task.loss(given)
        slopes.append(tape.gradient(loss, watched))
    for ours, theirs in zip(*slopes, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("feature", ["whole", "invariant"])
def test_which_half_finds_the_neighbours(feature):
    task = make(feature_decoupling, feature=feature)
    features = np.asarray(task.backbone.embed(pictures()))
    expected = features if feature == "whole" else features[:, features.shape[1] // 2 :]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(task.embed(pictures()), expected, rtol=1e-4, atol=1e-6)


# RotNet


@pytest.mark.parametrize(("stage", "width"), [(1, 4), (2, 8), (3, 16), (4, 32)])
def test_neighbours_by_an_earlier_stage(stage, width):
    network = backbone(blocks=(1, 1, 1, 1))
    task = rotnet.Method(
        rotnet.Config(feature_stage=stage), network, projection_dim=8, num_images=COUNT
    )
    found = task.embed(pictures())
    assert found.shape == (3, width)
    if stage == 4:
        features = tf.math.l2_normalize(task.backbone.embed(pictures()), axis=-1)
        np.testing.assert_array_equal(found, features)
    normalised = task.normalise(pictures())
    x = tf.nn.relu(task.backbone.bn1(task.backbone.conv1(normalised)))
    for block in network.blocks[:stage]:
        x = block(x)
    pooled = np.asarray(tf.reduce_mean(x, [1, 2]))
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
