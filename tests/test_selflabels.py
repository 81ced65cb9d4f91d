"""The last stages beside the paper's: FixMatch on reliable samples, and CDC."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import copy, opened, weights

from scan_tf.errors import NothingLearned
from scan_tf.methods.averages import Averages
from scan_tf.methods.selflabel import cdc, fixmatch
from scan_tf.models.heads import ClusterHeads
from scan_tf.pipeline import stages


def probs_of(clusters, confidence, count: int = 3) -> np.ndarray:
    """Rows whose largest probability is that of the cluster."""
    rest = (1 - np.asarray(confidence)) / (count - 1)
    probs = np.repeat(rest[:, None], count, axis=1)
    probs[np.arange(len(probs)), clusters] = confidence
    return probs


def test_reliable_images_are_confident_and_their_neighbours_agree():
    clusters = [0, 0, 0, 0, 1, 1, 2]
    probs = probs_of(clusters, [0.995, 0.999, 0.997, 0.9, 0.999, 0.996, 0.999])
    near = np.array([[1, 2], [2, 3], [4, 1], [0, 1], [5, 5], [4, 4], [0, 1]])
    # 2 has a neighbour elsewhere, 3 is not confident, 6 is alone.
    found = fixmatch.reliable(probs, near, balanced=False)
    assert found.tolist() == [0, 0, -1, -1, 1, 1, -1]
    assert fixmatch.reliable(probs, near, agreement=0.5, balanced=False)[2] == 0
    assert fixmatch.reliable(probs, near, confidence=0.5, balanced=False)[3] == 0


def test_of_each_cluster_as_many_are_reliable_as_of_the_smallest():
    probs = probs_of([0, 0, 0, 1, 1, 2], [0.991, 0.999, 0.995, 0.993, 0.999, 0.9])
    near = np.array([[1], [2], [0], [4], [3], [5]])
    # None of the cluster 2, two of each other: the most confident.
    assert fixmatch.reliable(probs, near).tolist() == [-1, 0, 0, 1, 1, -1]
    assert (fixmatch.reliable(probs, near, confidence=1.0) == -1).all()


def test_the_loss_of_fixmatch_by_hand():
    weak, strong = np.log([[0.96, 0.04], [0.5, 0.5], [0.02, 0.98]]), np.log([[0.7, 0.3]] * 3)
    given = [tf.constant(x, tf.float32) for x in (weak, strong)]
    supervised, unsupervised, confident = fixmatch.fixmatch_loss(*given, tf.constant([0, 1, -1]))
    assert float(supervised) == pytest.approx(-np.log([0.96, 0.5]).mean(), rel=1e-5)
    assert float(unsupervised) == pytest.approx(-np.log([0.7, 0.3]).sum() / 3, rel=1e-5)
    assert float(confident) == pytest.approx(2 / 3)
    none = fixmatch.fixmatch_loss(*given, tf.constant([-1, -1, -1]), 0.99)
    assert [float(value) for value in none] == [0, 0, 0]


def test_averages_follow_faster_at_the_start_of_a_short_training():
    heads = ClusterHeads(1, 2)
    heads.build((None, 1))
    heads.heads[0].bias.assign([0.0, 0.0])
    averages = Averages({"heads": heads}, 0.999, warm_up=True)
    expected = np.zeros(2)
    for step in range(3):
        heads.heads[0].bias.assign([step + 1.0, 0.0])
        averages.follow()
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * np.array([step + 1.0, 0.0])
    averages.swap()
    np.testing.assert_allclose(heads.heads[0].bias, expected, rtol=1e-6)
    averages.swap()
    np.testing.assert_array_equal(heads.heads[0].bias, [3, 0])
    averages.put()
    np.testing.assert_allclose(heads.heads[0].bias, expected, rtol=1e-6)
    assert Averages({"heads": heads}, 0.0).variables == []


def test_a_group_has_the_mean_prediction_of_its_images():
    # Three places, two images at each: six images, two in a group.
    places = tf.math.l2_normalize(tf.constant([[1.0, 0], [0, 1], [-1, 0]] * 2), -1)
    probs = tf.constant([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
    found = cdc.group_means(places, probs, 2.0)
    expected = [[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]] * 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Not fewer groups than clusters, not more than images.
    assert cdc.group_means(places, probs, 100.0).shape == (6, 2)
    np.testing.assert_allclose(cdc.group_means(places, probs, 1.0).shape, (6, 2))


def test_of_each_cluster_as_many_teach_as_it_is_confident():
    probs = tf.constant([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.6, 0.4], [0.7, 0.3]])
    rows, labels, chosen = cdc.surest(probs)
    # Cluster 0: 0.9, 0.8 and 0.7, mean 0.8: two of three; cluster 1: 0.6, 0.4, 0.3: one.
    assert labels.numpy().tolist() == [0, 0, 0, 1, 1, 1]
    assert rows.numpy().tolist()[:2] == [0, 1]
    assert rows.numpy().tolist()[3] == 3
    assert chosen.numpy().tolist() == [1, 1, 0, 1, 0, 0]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "settings",
    [
        ["selflabel.name=fixmatch", "selflabel.confidence=0.4", "selflabel.agreement=0.5"],
        pytest.param(["selflabel.name=cdc"], marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_with_them_and_goes_on_after_an_interruption(finished, tmp_path, settings):
    run = copy(finished, tmp_path / "run", without="selflabel")
    settings = [*settings, "selflabel.epochs=2", "selflabel.guard=keep"]
    work = opened(run, *settings)
    stages.run_stage(work, "selflabel")
    before, result = weights(run, "selflabel"), work.record("selflabel").result
    assert result["kept"] in ("scan", "selflabel")
    assert 0.05 < result["temperature"] < 20
    for path in ("status/selflabel.json", "selflabel/weights.npz"):
        (run / path).unlink()
    again = opened(run, *settings)
    stages.run_stage(again, "selflabel")
    np.testing.assert_equal(weights(run, "selflabel"), before)
    stages.run_stage(again, "evaluate")


@pytest.mark.usefixtures("eager")
def test_without_a_reliable_image_it_says_so(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="selflabel")
    work = opened(run, "selflabel.name=fixmatch", "selflabel.confidence=1.0")
    with pytest.raises(NothingLearned, match=r"no image is reliable: none .* than 1.0 with 90%"):
        stages.run_stage(work, "selflabel")
