from __future__ import annotations

import gc
import random
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from tiny_runs import CONFIG

import scan_tf
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.pipeline import fitting

# The tiny run's, of an epoch or two.
SETTINGS = {
    "model": CONFIG["model"],
    "augment": CONFIG["augment"],
    "pretext": {"name": "simclr", "epochs": 2, "batch_size": 16},
    "neighbors": CONFIG["neighbors"],
    "scan": {"epochs": 2, "batch_size": 16, "num_heads": 2},
    "selflabel": {"epochs": 1, "batch_size": 16, "threshold": 0.1},
    "evaluate": CONFIG["evaluate"] | {"linear_probe": False},
    "runtime": {"dtype": "float32", "jit_compile": "never", "log_every": 2},
}


def grey(count: int = 48) -> np.ndarray:
    """Dark and bright images uint8 [count,16,16]."""
    noise = np.random.default_rng(0).integers(0, 60, (count, 16, 16), np.uint8)
    return noise + (np.arange(count) % 2 * 150).astype(np.uint8)[:, None, None]


def left_in(folder) -> list[str]:
    """What lies in a temporary folder; TensorFlow removes its own files when the process ends."""
    names = (path.name for path in folder.iterdir())
    return [name for name in names if not name.startswith("__autograph_generated_file")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def fitted(folders):
    before = tempfile.tempdir
    tempfile.tempdir = str(folders)
    tf.config.run_functions_eagerly(True)  # a few steps are done before they would be traced
    try:
        return scan_tf.fit(grey(), num_clusters=2, labels=np.arange(48) % 2, **SETTINGS)
    finally:
        tempfile.tempdir = before
        tf.config.run_functions_eagerly(False)


def test_fit_gives_labels_probabilities_features_and_scores(fitted):
    assert (fitted.labels_.shape, fitted.labels_.dtype) == ((48,), np.int64)
    assert fitted.probabilities_.shape == (48, 2)
    np.testing.assert_allclose(fitted.probabilities_.sum(axis=1), 1, rtol=1e-5)
    assert fitted.features_.shape == (48, 32)
    np.testing.assert_array_equal(fitted.labels_, fitted.probabilities_.argmax(axis=1))
    assert 0.5 <= fitted.report["selflabel"]["acc"] <= 1


def test_a_fitted_model_predicts_images_of_any_shape(fitted, tmp_path):
    images = grey()[:7]
    np.testing.assert_array_equal(fitted.predict(images), fitted.labels_[:7])
    rgb = np.repeat(images[..., np.newaxis], 3, axis=3)
    np.testing.assert_allclose(
        fitted.predict_proba(rgb), fitted.probabilities_[:7], atol=1e-5, rtol=0
    )
    assert fitted.predict_proba(np.kron(images, np.ones((1, 2, 2), np.uint8))).shape == (7, 2)
    with pytest.raises(DataError, match="got float64"):
        fitted.predict(images / 255)
    out = tf.saved_model.load(str(fitted.export(tmp_path / "export")))
    found = out.signatures["serving_default"](images=tf.constant(rgb))["cluster"]
    np.testing.assert_array_equal(found, fitted.labels_[:7])


def test_nothing_is_left_of_a_fit_without_a_run_directory(fitted, folders):
    assert left_in(folders) == []


def test_random_state_is_as_it_was():
    random.seed(1)
    np.random.seed(2)
    tf.random.set_seed(3)
    expected = [random.random(), np.random.random(), tf.random.uniform([]).numpy()]
    random.seed(1)
    np.random.seed(2)
    tf.random.set_seed(3)
    with fitting.kept_random_state():
        tf.keras.utils.set_random_seed(99)
        random.random()
        np.random.random()
        tf.random.uniform([])
    assert [random.random(), np.random.random(), tf.random.uniform([]).numpy()] == expected


def test_settings_are_nested_or_flat():
    config = fitting.settings_of("digits_simclr", 7, {"scan__epochs": 3, "pretext": {"epochs": 2}})
    assert (config.scan.num_clusters, config.scan.epochs, config.pretext.epochs) == (7, 3, 2)
    assert config.pretext.temperature == 0.5
    assert fitting.settings_of(None, None, {"pretext": "rotnet"}).pretext.name == "rotnet"
    moved = fitting.settings_of("digits_simclr", None, {"pretext": {"name": "byol", "epochs": 3}})
    assert (moved.pretext.name, moved.pretext.epochs, moved.pretext.batch_size) == ("byol", 3, 256)
    assert fitting.settings_of("folder", None, {"scan__name": "spectral"}).scan.name == "spectral"
    with pytest.raises(ConfigError, match="unknown key 'scan.epoch'"):
        fitting.settings_of(None, None, {"scan__epoch": 3})
    with pytest.raises(ConfigError, match="no recipe 'digits'"):
        fitting.settings_of("digits", None, {})


def test_bad_images_are_refused_before_anything_is_learnt(tmp_path, capfd):
    with pytest.raises(DataError, match="auto takes at least 40 images, got 30"):
        scan_tf.fit(grey()[:30], **SETTINGS)
    with pytest.raises(DataError, match=r"got \[48, 256\]"):
        scan_tf.fit(grey().reshape(48, -1), 2, **SETTINGS)
    with pytest.raises(ConfigError, match="labels: those of a folder"):
        scan_tf.fit(tmp_path, 2, labels=[1], **SETTINGS)
    assert capfd.readouterr().out == ""


def test_a_run_directory_keeps_to_its_images(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((48, 16, 16, 3), np.uint8))
    with pytest.raises(StageError, match="holds a run on other images"):
        scan_tf.fit(grey(), 2, run_dir=tmp_path, **SETTINGS)


# The steps one by one


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
def test_the_steps_take_and_give_values(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    learned = scan_tf.learn_features(grey(), **SETTINGS)
    assert (learned.features.shape, learned.features.dtype) == ((48, 8), np.float32)
    np.testing.assert_allclose(np.linalg.norm(learned.features, axis=1), 1, rtol=1e-4)
    neighbors = scan_tf.mine(learned)
    assert neighbors.indices.shape == (48, 1 + SETTINGS["neighbors"]["k"])
    clustered = scan_tf.train_heads(learned, neighbors, 3, scan__epochs=1)
    assert clustered.probabilities_.shape == (48, 3)
    assert (clustered.config.scan.epochs, clustered.config.scan.num_heads) == (1, 2)
    refined = scan_tf.self_label(clustered, selflabel__threshold=0.05)
    assert refined.probabilities_.shape == (48, 3)
    assert refined.config.selflabel.threshold == 0.05
    assert not np.array_equal(refined.probabilities_, clustered.probabilities_)
    with pytest.raises(DataError, match="this is labelled already"):
        scan_tf.self_label(refined)
    few = scan_tf.mine(learned.features[:40], neighbors__k=3)
    with pytest.raises(DataError, match="neighbors: of 40 images, expected 48"):
        scan_tf.train_heads(learned, few, 3)
    assert capfd.readouterr().out == ""
    del learned, clustered, refined
    gc.collect()
    assert left_in(tmp_path) == []


def test_neighbors_of_features_from_anywhere(capfd):
    angles = np.linspace(0, 3, 20)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mined = scan_tf.mine(rows, neighbors__k=2)
    assert mined.indices.dtype == np.int32
    np.testing.assert_array_equal(mined.indices[:, 0], np.arange(20))
    assert set(mined.indices[5, 1:]) == {4, 6}
    with pytest.raises(ConfigError, match=r"neighbors.k = 20 needs at least 21 images, got 20"):
        scan_tf.mine(rows)
    with pytest.raises(ConfigError, match="unknown key 'neighbors.n'"):
        scan_tf.mine(rows, neighbors__n=2)
    with pytest.raises(DataError, match="zero"):
        scan_tf.mine(rows * 0, neighbors__k=2)
    assert capfd.readouterr().out == ""


def test_clusters_are_scored_without_being_counted():
    labels, clusters = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 0])
    scores = scan_tf.cluster_scores(labels, clusters)
    assert scores == scan_tf.cluster_scores(labels, clusters, num_clusters=2, num_classes=3)
    assert (scores["acc"], scores["mapping"], scores["cluster_sizes"]) == (0.8, [1, 0], [3, 2])
    probs = np.eye(4, dtype=np.float32)[clusters]
    assert scan_tf.cluster_scores(None, clusters, probs=probs)["cluster_sizes"] == [3, 2, 0, 0]


# The estimator


def test_the_estimator_is_the_same_code(monkeypatch, fitted):
    asked = {}

    def fit(images, *arguments, **settings):
        asked.update(arguments=arguments, settings=settings, images=images)
        return fitted

    monkeypatch.setattr("scan_tf.pipeline.estimator.fit", fit)
    estimator = scan_tf.Scan(2, "digits_simclr", random_state=5, settings={"scan__epochs": 3})
    with pytest.raises(NotFittedError):
        estimator.predict(grey())
    np.testing.assert_array_equal(estimator.fit_predict(grey()), fitted.labels_)
    assert asked["arguments"] == (2, "digits_simclr", None)
    assert asked["settings"] == {"verbose": False, "scan__epochs": 3, "seed": 5}
    assert estimator.labels_ is fitted.labels_
    np.testing.assert_array_equal(estimator.predict(grey()[:5]), fitted.labels_[:5])
    assert estimator.predict_proba(grey()[:5]).shape == (5, 2)
    assert clone(estimator).get_params() == estimator.get_params()


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_valid_tag_types,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_of_scikit_learn(check):
    check("Scan", scan_tf.Scan())
