from __future__ import annotations

import numpy as np
import pytest

from scan_tf.evaluation import consensus


def soft(clusters: np.ndarray, order, sure: float = 0.9) -> np.ndarray:
    """A head's float32 [N,C] that gives its own numbers to the clusters."""
    count = len(order)
    rows = np.full((len(clusters), count), (1 - sure) / (count - 1), np.float32)
    rows[np.arange(len(clusters)), np.asarray(order)[clusters]] = sure
    return rows


def test_heads_that_agree_but_for_their_numbers(rng):
    clusters = rng.integers(0, 3, 60)
    probs = np.stack([soft(clusters, order) for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0])])
    found = consensus.of_heads(probs, seed=0)
    assert found.clusters.dtype == np.int64
    pairs = set(zip(found.clusters.tolist(), clusters.tolist(), strict=True))
    assert len(pairs) == 3  # the same sets under other numbers
    assert found.agreement == pytest.approx(1)
    assert found.spread == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found.support, 0.9, rtol=1e-5)


def test_heads_that_have_collapsed_make_no_noise():
    probs = np.full((2, 20, 4), 0.25, np.float32)
    probs[..., 0] += 1e-3
    found = consensus.of_heads(probs, seed=0)
    assert set(found.clusters.tolist()) <= {0, 1, 2, 3}
    assert np.isfinite(found.support).all()


def test_agreement_is_looked_for_among_no_more_images_than_fit(monkeypatch):
    np.testing.assert_array_equal(consensus.enough(50, 2, 3, seed=0), np.arange(50))
    monkeypatch.setattr(consensus, "_VALUES", 60)
    some = consensus.enough(50, 2, 3, seed=0)
    assert len(some) == 10
    assert (np.diff(some) > 0).all()
    assert 0 <= some[0] < some[-1] < 50
    assert set(some) != set(consensus.enough(50, 2, 3, seed=1))
    assert len(consensus.enough(50, 2, 20, seed=0)) == 20  # k-means needs so many
