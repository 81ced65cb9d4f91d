from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from png_files import ODD_NAMES, has_colour, pixels

from scan_tf.errors import DataError
from scan_tf.evaluation import pictures
from scan_tf.evaluation.colours import palette
from scan_tf.features.map2d import embed_2d


@pytest.fixture(autouse=True)
def _no_global_state():
    """No picture may go through pyplot, which keeps figures and picks a display."""
    before = "matplotlib.pyplot" in sys.modules  # another test's library may have loaded it
    yield
    assert ("matplotlib.pyplot" in sys.modules) == before
    assert not before or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_confusion_matrix_shows_the_share_of_the_true_class(tmp_path):
    path = tmp_path / "new" / "folder" / "confusion.png"
    pictures.confusion_matrix(path, np.array([[1000, 0], [3, 3]]), ["cat", "dog"], "title")
    picture = pixels(path)
    assert has_colour(picture, (8, 48, 107), 0.02), "1000 of 1000: the darkest blue"
    assert has_colour(picture, (247, 251, 255), 0.02), "0 of 1000: the lightest"
    assert has_colour(picture, (106, 174, 214), 0.04), "3 of 6, twice: the middle"


@pytest.mark.parametrize("count", [1, 3, 21, 50])
def test_confusion_matrix_of_any_size(tmp_path, rng, count):
    names = (ODD_NAMES * 20)[:count]
    matrix = rng.integers(0, 100_000, (count, count))
    matrix[0] = 0  # a class without images
    pictures.confusion_matrix(tmp_path / "c.png", matrix, names)
    assert min(pixels(tmp_path / "c.png").shape[:2]) > 300


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (2,)])
def test_confusion_matrix_must_fit_the_names(tmp_path, shape):
    with pytest.raises(DataError, match=r"does not fit 2 class names"):
        pictures.confusion_matrix(tmp_path / "c.png", np.ones(shape, int), ["a", "b"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", [8, 32, 96])
def test_small_images_are_enlarged_pixel_by_pixel(tmp_path, rng, side):
    image = rng.integers(0, 256, (side, side, 3), np.uint8)
    pictures.contact_sheet(tmp_path / "s.png", image[None], [0.5], "one")
    picture = pixels(tmp_path / "s.png")
    factor = round(104 / side)
    cell = picture[40 : 40 + side * factor, 12 : 12 + side * factor]
    np.testing.assert_array_equal(cell, image.repeat(factor, 0).repeat(factor, 1))


def test_large_images_are_shrunk(tmp_path):
    images = np.full((3, 500, 500, 3), (200, 30, 60), np.uint8)
    pictures.contact_sheet(tmp_path / "s.png", images, ["a", "b", "c"], "large")
    picture = pixels(tmp_path / "s.png")
    assert picture.shape[1] < 800
    assert has_colour(picture, (200, 30, 60), 0.4)


@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_prototypes_of_any_number(tmp_path, count):
    colours = (palette(count) * 255).astype(np.uint8)
    images = [np.tile(colour, (8, 8, 1)) for colour in colours]
    captions = (ODD_NAMES * 20)[:count]
    pictures.prototypes(tmp_path / "p.png", images, captions)
    picture = pixels(tmp_path / "p.png")
    assert all(has_colour(picture, colour, 0.003) for colour in colours)


def test_empty_clusters_are_shown_as_grey_tiles(tmp_path):
    image = np.full((8, 8, 3), 40, np.uint8)
    pictures.prototypes(tmp_path / "p.png", [None, image, None], ["0", "1", "2"])
    picture = pixels(tmp_path / "p.png")
    assert (picture[40:144, 12:116] == 230).all()
    assert (picture[40:144, 128:232] == 40).all()
    pictures.contact_sheet(tmp_path / "s.png", np.empty((0, 8, 8, 3), np.uint8), [], "Cluster 4")
    assert has_colour(pixels(tmp_path / "s.png"), (230, 230, 230), 0.1)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((8, 9, 3), np.uint8)],
)
def test_images_must_be_square_rgb_bytes(tmp_path, image):
    with pytest.raises(DataError, match=r"images: expected uint8 \[S,S,3\], got"):
        pictures.prototypes(tmp_path / "p.png", [image], ["a"])


def test_each_image_needs_a_caption(tmp_path):
    with pytest.raises(DataError, match="captions: 1 for 2 images"):
        pictures.prototypes(tmp_path / "p.png", [None, None], ["a"])


@pytest.mark.parametrize(("count", "clusters"), [(200, 10), (200, 50), (1, 1), (0, 1)])
def test_feature_map_with_and_without_labels(tmp_path, rng, count, clusters):
    points = rng.standard_normal((count, 2)).astype(np.float32)
    groups, labels = rng.integers(0, clusters, count), rng.integers(0, 3, count)
    pictures.feature_map(tmp_path / "1.png", points, groups, None, ())
    pictures.feature_map(tmp_path / "2.png", points, groups, labels, ODD_NAMES)
    one, two = pixels(tmp_path / "1.png"), pixels(tmp_path / "2.png")
    assert two.shape[1] == 2 * one.shape[1]
    if count:
        colour = palette(clusters)[groups[0]] * 255
        assert has_colour(one, colour)


def test_points_keep_the_colour_of_their_cluster(tmp_path):
    # Cluster 1 is empty: the others must not move up.
    points, groups = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0, 2])
    pictures.feature_map(tmp_path / "m.png", points, groups, None, ())
    colours = palette(3) * 255
    seen = [has_colour(pixels(tmp_path / "m.png"), colour) for colour in colours]
    assert seen == [True, False, True]


def test_embed_2d_keeps_groups_together_and_is_repeatable(rng):
    groups = np.repeat([0, 1, 2], 8)
    centres = 10 * np.eye(3, 64)[groups]
    features = centres + 0.1 * rng.standard_normal((24, 64))
    points = embed_2d(features, seed=0)
    assert points.shape == (24, 2)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, embed_2d(features, seed=0))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (groups[distance.argmin(axis=1)] == groups).all()


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (2, 5), (9, 1), (9, 3), (10, 1), (10, 200)])
def test_embed_2d_of_few_images(rng, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = embed_2d(rng.standard_normal(shape), seed=0)
    assert points.shape == (shape[0], 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()


def test_embed_2d_of_equal_features_is_one_point():
    np.testing.assert_array_equal(embed_2d(np.ones((40, 8)), seed=0), np.zeros((40, 2)))


@pytest.mark.parametrize("features", [np.zeros(5), np.full((3, 2), np.nan), np.zeros((2, 2, 2))])
def test_embed_2d_refuses_what_is_no_table_of_numbers(features):
    with pytest.raises(DataError, match="features: expected a finite"):
        embed_2d(features, seed=0)
