from __future__ import annotations

import numpy as np
import pytest

from scan_tf.config import NeighborsConfig
from scan_tf.errors import DataError
from scan_tf.features import duplicates, neighbors


class Counting:
    """Images that know how many of them were asked for at once."""

    def __init__(self, images: np.ndarray):
        self.images, self.most = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows) -> np.ndarray:
        found = self.images[rows]
        self.most = max(self.most, len(found))
        return found


def mined(features: np.ndarray, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    found = neighbors.mine(features, NeighborsConfig(), k=k, seed=0)
    return found.indices, found.similarity


@pytest.fixture
def images(rng) -> np.ndarray:
    return rng.integers(0, 256, (12, 4, 4, 3), np.uint8)


def test_equal_pixels_make_groups(rng, images):
    images[[7, 9]], images[11] = images[2], images[4]
    found = duplicates.find(images, *mined(rng.standard_normal((12, 64))))
    assert [group.tolist() for group in found.groups] == [[2, 7, 9], [4, 11]]
    assert found.surplus == 3
    assert found.pairs.shape == (0, 2), "random features are far apart"


def test_near_features_make_pairs_once_the_most_similar_first(rng, images):
    features = rng.standard_normal((12, 64)).astype(np.float32)
    features[8] = features[3] + 0.05 * rng.standard_normal(64)
    features[0] = features[6] + 0.001 * rng.standard_normal(64)
    found = duplicates.find(images, *mined(features))
    assert found.pairs.tolist() == [[0, 6], [3, 8]]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = [unit[0] @ unit[6], unit[3] @ unit[8]]
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)
    assert found.groups == ()
    stricter = duplicates.find(images, *mined(features), threshold=0.9999)
    assert stricter.pairs.tolist() == [[0, 6]]


def test_equal_pixels_are_no_near_duplicates(rng, images):
    features = rng.standard_normal((12, 64)).astype(np.float32)
    images[5], features[5] = images[1], features[1]
    found = duplicates.find(images, *mined(features))
    assert [group.tolist() for group in found.groups] == [[1, 5]]
    assert len(found.pairs) == len(found.similarity) == 0


def test_a_block_is_read_at_a_time(rng):
    images = Counting(rng.integers(0, 256, (2500, 2, 2, 3), np.uint8))
    images.images[2400] = images.images[3]
    itself = np.arange(2500)[:, None]
    found = duplicates.find(images, itself, np.ones((2500, 1), np.float32))
    assert [group.tolist() for group in found.groups] == [[3, 2400]]
    assert images.most == 1024


@pytest.mark.parametrize("threshold", [0, -0.5, 1.1, float("nan")])
def test_threshold_must_be_a_cosine(rng, images, threshold):
    with pytest.raises(DataError, match=r"threshold: expected above 0 and at most 1, got"):
        duplicates.find(images, *mined(rng.standard_normal((12, 8))), threshold=threshold)


def test_neighbors_must_fit_the_images(rng, images):
    indices, similarity = mined(rng.standard_normal((11, 8)))
    with pytest.raises(DataError, match=r"expected both as \[12, K\+1\], got \[11, 4\]"):
        duplicates.find(images, indices, similarity)
