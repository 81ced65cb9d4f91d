from __future__ import annotations

import numpy as np
import pytest
from pages import Parsed

from scan_tf.config import NeighborsConfig
from scan_tf.data.image_set import IMAGENET_MEAN, IMAGENET_STD, ImageSet
from scan_tf.errors import DataError
from scan_tf.evaluation import page, report_page
from scan_tf.features import neighbors
from scan_tf.features.map2d import embed_2d, layout


def image_set(rng, count: int, **changes) -> ImageSet:
    images = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    images[2] = images[1]
    values = {
        "name": "things",
        "split": "test",
        "images": images,
        "labels": None,
        "class_names": (),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "paths": tuple(f"/home/me/things/{i % 3}/{i}.png" for i in range(count)),
        "skipped": ("/home/me/things/broken.png",),
    }
    return ImageSet(**(values | changes))


def write(folder, rng, images: ImageSet, features: np.ndarray, **changes) -> Parsed:
    probs = rng.dirichlet(np.full(4, 0.2), len(images)).astype(np.float32)
    options = {
        "name": "my things",
        "scores": {"k-means": {"num_clusters_used": 4}, "SCAN": {"num_clusters_used": 4}},
        "stages": [page.StageFacts("scan", "clustering", 3.0, [{"epoch": 1, "loss": 2.0}])],
        "settings": "seed: 0\n",
        "environment": {"python": "3"},
        "points": layout(features, 0, 30),
        "seed": 0,
    }
    report_page.write(folder / "r.html", images, probs, features, **(options | changes))
    return Parsed(folder / "r.html")


def test_a_folder_without_labels(tmp_path, rng):
    features = rng.standard_normal((50, 6)).astype(np.float32)
    found = write(tmp_path, rng, image_set(rng, 50), features)
    assert "50 images of the test split, without labels, seed 0" in found.text
    assert "my things: 4 clusters" in found.text
    assert sorted(found.data["names"]) == sorted(f"{i % 3}/{i}.png" for i in range(50))
    assert "/home/me" not in found.html
    assert "broken.png" in found.text
    assert "1 image is the same, pixel by pixel, as another." in found.text
    assert "1 group of images with the same pixels" in found.text
    rows = found.array("row")
    np.testing.assert_allclose(found.array("coordinates"), layout(features, 0, 30)[rows])


def test_near_duplicates_are_told_by_the_neighbours_that_were_mined(tmp_path, rng):
    features = rng.standard_normal((50, 6)).astype(np.float32)
    pretext = rng.standard_normal((50, 64)).astype(np.float32)
    pretext[30] = pretext[20]
    mined = neighbors.mine(pretext, NeighborsConfig(), k=3, seed=0)
    found = write(tmp_path, rng, image_set(rng, 50), features, mined=mined)
    assert "1 pair of near duplicates" in found.text
    assert "similarity 1.0000" in found.text


@pytest.mark.parametrize("count", [3, 12])
def test_features_without_a_direction(tmp_path, rng, count):
    found = write(tmp_path, rng, image_set(rng, count), np.zeros((count, 6), np.float32))
    assert "0 pairs of near duplicates" in found.text


def test_layout_of_all_is_that_of_the_sample(rng):
    features = rng.standard_normal((80, 10)).astype(np.float32)
    features[:40] += 30
    points = layout(features, 3, 40)
    rows = np.random.default_rng(3).choice(80, 40, replace=False)
    np.testing.assert_array_equal(points[rows], embed_2d(features[rows], 3))
    # The two groups lie apart, also those that were not in the sample.
    middles = points[:40].mean(axis=0), points[40:].mean(axis=0)
    nearer = [np.linalg.norm(points - middle, axis=1) for middle in middles]
    assert ((nearer[0] < nearer[1]) == (np.arange(80) < 40)).all()


def test_layout_puts_a_copy_where_the_original_is(rng):
    features = np.repeat(rng.standard_normal((40, 10)), 2, axis=0).astype(np.float32)
    points = layout(features, 0, 60)
    known = set(np.random.default_rng(0).choice(80, 60, replace=False).tolist())
    for row in range(80):
        if row not in known and row ^ 1 in known:
            np.testing.assert_allclose(points[row], points[row ^ 1], rtol=1e-2, atol=1e-2)


def test_layout_of_few_and_of_broken_features(rng):
    assert layout(rng.standard_normal((2, 3)), 0, 100).shape == (2, 2)
    assert layout(rng.standard_normal((30, 3)), 0, 2).shape == (30, 2)
    features = np.zeros((30, 3))
    features[:, 1] = np.nan
    with pytest.raises(DataError, match="features: expected a finite"):
        layout(features, 0, 10)
