"""The policies: what they promise, how their draws are distributed, and device against host."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from scan_tf.augment import color, geometry, host, ops, policies
from scan_tf.augment.policies import make
from scan_tf.config import AugmentConfig
from scan_tf.errors import ConfigError, DataError

NAMES = ("none", "weak", "simclr", "strong")
MEAN = (0.5, 0.4, 0.3)
CONFIG = AugmentConfig()
# Geometry and colour off, to look at one thing at a time.
STILL = AugmentConfig(
    flip=0.0,
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    jitter_probability=0.0,
    grayscale_probability=0.0,
    weak_padding=0,
    strong_ops=0,
    cutout=0,
)


def noise(rng, *shape):
    return tf.constant(rng.integers(0, 256, shape) / 255, tf.float32)


def policy_of(name, config=CONFIG, size=16):
    return make(name, config, size=size, mean=MEAN)


def off_by(rate, expected, count):
    """Distance from the expected rate in standard deviations."""
    return abs(rate - expected) / np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("module", [policies, host])
def test_unknown_policy_and_bad_ranges_teach(module):
    with pytest.raises(ConfigError, match="Did you mean 'strong'"):
        module.make("stron", CONFIG, size=32, mean=MEAN)
    for bad in ({"crop_scale": (0.5, 0.2)}, {"crop_ratio": (0.0, 1.0)}, {"jitter": (0, 0, 0, 0.6)}):
        with pytest.raises(ConfigError, match=f"augment.{next(iter(bad))}"):
            module.make("simclr", dataclasses.replace(CONFIG, **bad), size=32, mean=MEAN)


@pytest.mark.parametrize("shape", [(1, 16, 16, 3), (3, 17, 29, 3), (2, 11, 9, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_shape_range_and_seeds(rng, name, shape):
    images = noise(rng, *shape)
    policy = policy_of(name, AugmentConfig(rotate=10.0))
    first, again, other = (policy(images, tf.constant(s)) for s in ([1, 2], [1, 2], [1, 3]))
    assert first.shape == (shape[0], 16, 16, 3)
    assert first.dtype == tf.float32
    assert tf.reduce_min(first) >= 0
    assert tf.reduce_max(first) <= 1
    np.testing.assert_array_equal(first, again)
    assert (name == "none") == bool(tf.reduce_all(first == other))


@pytest.mark.parametrize(
    "name", [n if n == "weak" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_graph_and_xla_draw_the_same(rng, name):
    """Bit for bit where no matrix product interpolates."""
    side = 16 if name == "strong" else 20
    images, seed = noise(rng, 40, side, side, 3), tf.constant([5, 6])
    policy = policy_of(name, AugmentConfig(strong_ops=2))
    eager = policy(images, seed)
    for jit in (False, True):
        compiled = tf.function(policy, jit_compile=jit, autograph=False)(images, seed)
        np.testing.assert_allclose(compiled, eager, atol=0 if name == "strong" else 2e-5)


def naive_blur(image, sigma, radius):
    """A Gaussian of 2 * radius + 1 pixels each way, the image mirrored at its borders."""
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        margins = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, margins, mode="reflect")
        count = image.shape[axis]
        parts = [np.take(padded, np.arange(count) + radius + o, axis) for o in offsets]
        image = sum(w * part for w, part in zip(weights, parts, strict=True))
    return image


@pytest.mark.parametrize("radius", [1, 3])
def test_blur_by_the_formula(rng, radius):
    images, sigma = noise(rng, 3, 12, 12, 3), np.array([0.1, 0.7, 2.0], np.float32)
    kernel = geometry.blur_matrix(tf.constant(sigma), 12, radius)
    np.testing.assert_allclose(tf.reduce_sum(kernel, -1), np.ones((3, 12)), rtol=1e-5)
    blurred = geometry.mix(images, kernel, kernel)
    expected = [naive_blur(i, s, radius) for i, s in zip(images.numpy(), sigma, strict=True)]
    np.testing.assert_allclose(blurred, expected, atol=1e-5)
    assert [policies.blur_radius(size) for size in (16, 32, 96, 224)] == [1, 1, 4, 11]


def test_solarize_is_pil_s(rng):
    levels = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(levels), 128))
    ours = color.solarize(tf.constant(levels[None] / 255, tf.float32))
    np.testing.assert_allclose(255 * ours[0], expected, atol=1e-4)


def test_rates_of_blur_and_solarisation(rng):
    """Each recognised by itself, and independent of the other."""
    image = np.zeros((1, 8, 8, 3), np.float32)
    image[0, :, :4] = 0.9
    policy = make("simclr", STILL, size=8, mean=MEAN, blur=0.3, solarize=0.2)
    views = policy(np.repeat(image, 6000, 0), tf.constant([2, 1])).numpy()
    inverted = np.isclose(views[:, 0, 0, 0], 0.1, atol=1e-5)
    # What of the left half has come over the edge: less than can be seen below 0.2085 pixels.
    over = views[:, 0, 4, 0] / 0.9
    blurred = over > 1e-5
    visible = (2 - 0.2085) / 1.9
    for found, expected in ((inverted, 0.2), (blurred, 0.3 * visible)):
        assert off_by(found.mean(), expected, 6000) < 4
    assert off_by((inverted & blurred).mean(), 0.06 * visible, 6000) < 4
    # exp(-1/(2 sigma^2)) / (1 + 2 exp(...)) gives sigma back, uniform up to 2 pixels.
    share = over[blurred]
    sigma = np.sqrt(-0.5 / np.log(share / (1 - 2 * share)))
    np.testing.assert_allclose(np.quantile(sigma, [0, 0.5, 1]), [0.2085, 1.104, 2], atol=0.07)


@pytest.mark.parametrize("backend", ["device", "host"])
def test_a_view_may_show_other_shares_of_the_image(backend):
    """Of an image that is the same ramp in every row: what share of its width a crop spans."""
    config = dataclasses.replace(STILL, crop_ratio=(1.0, 1.0))
    levels = np.tile(np.arange(64, dtype=np.uint8)[:, None] * 3, (64, 1, 3)).reshape(64, 64, 3)
    if backend == "device":
        policy = make("simclr", config, size=16, mean=MEAN, area=(0.25, 0.25))
        views = 255 * policy(np.repeat(levels[None] / np.float32(255), 50, 0), tf.constant([1, 2]))
    else:
        policy = host.make("simclr", config, size=16, mean=MEAN, area=(0.25, 0.25))
        random = np.random.default_rng(0)
        views = np.stack([policy(levels, random) for _ in range(50)]).astype(float)
    span = np.ptp(np.asarray(views)[:, 8, :, 0], axis=1) / 3
    np.testing.assert_allclose(span, 32 * 15 / 16, atol=1.5)


@pytest.mark.parametrize("module", [policies, host])
def test_an_option_of_another_policy_is_refused(module):
    with pytest.raises(TypeError, match="blur"):
        module.make("weak", CONFIG, size=8, mean=MEAN, blur=0.5)


@pytest.mark.parametrize("name", ["weak", "simclr", "strong"])
def test_every_image_of_a_batch_has_its_own_draw(rng, name):
    same = tf.repeat(noise(rng, 1, 16, 16, 3), 12, axis=0)
    views = policy_of(name)(same, tf.constant([0, 0])).numpy()
    assert len(np.unique(views.reshape(12, -1), axis=0)) > 9


@pytest.mark.parametrize("name", NAMES)
def test_everything_off_is_the_identity(rng, name):
    images = noise(rng, 4, 16, 16, 3)
    views = policy_of(name, STILL)(images, tf.constant([1, 1]))
    np.testing.assert_allclose(views, images, atol=1e-7)


def test_none_fits_and_crops_the_centre(rng):
    images = noise(rng, 2, 16, 23, 3)
    policy = policy_of("none")
    np.testing.assert_array_equal(policy(images, tf.constant([0, 0])), images[:, :, 4:20])
    ramp = tf.tile(tf.linspace(0.0, 1.0, 64)[None, :, None, None], [1, 1, 32, 3])
    column = policy(ramp, tf.constant([0, 0]))[0, :, 0, 0]
    # 64 rows become 32, of which 8..23 stay; each is the centre of two.
    np.testing.assert_allclose(column, (np.arange(8, 24) * 2 + 0.5) / 63, atol=1e-5)


def test_weak_is_a_padded_crop_at_a_uniform_place(rng):
    image = noise(rng, 1, 16, 16, 3)
    views = policy_of("weak")(tf.repeat(image, 4000, axis=0), tf.constant([3, 4])).numpy()
    padded = np.pad(image[0], [(4, 4), (4, 4), (0, 0)], mode="reflect")
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 16, left : left + 16]
            crops[crop.tobytes()] = (top, left, 0)
            crops[crop[:, ::-1].tobytes()] = (top, left, 1)
    # A view that is no such crop raises KeyError.
    top, left, flipped = np.array([crops[view.tobytes()] for view in views]).T
    assert off_by(flipped.mean(), 0.5, 4000) < 4
    for place in (top, left):
        shares = np.bincount(place, minlength=9) / 4000
        assert off_by(shares, 1 / 9, 4000).max() < 4


def test_padding_larger_than_the_image(rng):
    config = dataclasses.replace(STILL, weak_padding=40)
    image = noise(rng, 1, 8, 8, 3)
    views = policy_of("weak", config, 8)(tf.repeat(image, 30, axis=0), tf.constant([3, 4])).numpy()
    padded = np.pad(image[0], [(40, 40), (40, 40), (0, 0)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(0, 1))
    known = {np.moveaxis(w, 0, -1).tobytes() for row in windows for w in row}
    assert {view.tobytes() for view in views} <= known


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 45)])
def test_crop_boxes_follow_torchvision(height, width):
    top, left, tall, wide = (
        box.numpy() for box in policies.draw_crop(CONFIG, 6000, height, width, tf.constant([7, 8]))
    )
    for value in (top, left, tall, wide):
        np.testing.assert_array_equal(value, np.round(value))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    area, ratio = tall * wide / (height * width), wide / tall
    reference = boxes_by_loop(np.random.default_rng(0), 6000, height, width)
    for found, expected in ((area, reference[0]), (np.log(ratio), np.log(reference[1]))):
        error = np.sqrt(2 / 6000) * expected.std()
        assert abs(found.mean() - expected.mean()) < 4 * error
        assert abs(found.std() / expected.std() - 1) < 0.05
        inner = [np.quantile(sample, [0.05, 0.5, 0.95]) for sample in (found, expected)]
        np.testing.assert_allclose(*inner, atol=0.02)
    # The limits hold but for the rounding of each side to whole pixels.
    assert ((wide - 0.5) / (tall + 0.5) <= 4 / 3).all()
    assert ((wide + 0.5) / (tall - 0.5) >= 3 / 4).all()
    assert ((tall + 0.5) * (wide + 0.5) >= 0.2 * height * width).all()
    # Both ends of the room are reached.
    assert {0.0, 1.0} <= set((left / np.maximum(width - wide, 1)).round(6))


def boxes_by_loop(rng, count, height, width):
    """Area and ratio of RandomResizedCrop, one box at a time."""
    areas, ratios = [], []
    while len(areas) < count:
        area = rng.uniform(0.2, 1) * height * width
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        tall, wide = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if tall <= height and wide <= width:
            areas.append(tall * wide / (height * width))
            ratios.append(wide / tall)
    return np.array(areas), np.array(ratios)


def test_crop_that_never_fits_is_the_largest_centred_one():
    config = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(2.0, 2.0))
    box = policies.draw_crop(config, 5, 30, 40, tf.constant([0, 1]))
    np.testing.assert_array_equal(tf.stack(box, 1), [[5, 0, 20, 40]] * 5)


def test_rates_of_simclr(rng):
    """Flip, jitter and grey, each recognised by itself and independent of the others."""
    config = dataclasses.replace(
        STILL, flip=0.5, jitter=(0.4, 0, 0, 0), jitter_probability=0.8, grayscale_probability=0.2
    )
    image = np.zeros((1, 8, 8, 3), np.float32)
    image[0, :, :4] = (0.3, 0.5, 0.4)
    views = policy_of("simclr", config, 8)(np.repeat(image, 6000, 0), tf.constant([2, 1])).numpy()
    left, right = views[:, 0, 0], views[:, 0, 7]
    flipped, bright = left.max(1) == 0, np.maximum(left, right)
    grey = np.ptp(bright, axis=1) < 1e-6
    weights = np.array([0.299, 0.587, 0.114])
    luma = np.where(grey, bright[:, 0], bright @ weights)
    jittered = np.abs(luma / (image[0, 0, 0] @ weights) - 1) > 1e-5
    for found, expected in ((flipped, 0.5), (grey, 0.2), (jittered, 0.8)):
        assert off_by(found.mean(), expected, 6000) < 4
    assert off_by((flipped & grey).mean(), 0.1, 6000) < 4
    assert off_by((jittered & grey).mean(), 0.16, 6000) < 4


def test_strong_draws_each_operation_alike(rng, monkeypatch):
    drawn = []

    def record(levels, op, magnitude):
        drawn.append((op.numpy(), magnitude.numpy()))
        return levels

    monkeypatch.setattr(ops, "apply_ops", record)
    policy = make("strong", CONFIG, size=8, mean=MEAN)
    policy(noise(rng, 4000, 8, 8, 3), tf.constant([1, 9]))
    assert len(drawn) == 4
    op, magnitude = (np.concatenate(part) for part in zip(*drawn, strict=True))
    assert off_by(np.bincount(op, minlength=14) / 16000, 1 / 14, 16000).max() < 4
    # With replacement: the first two slots agree once in 14.
    assert off_by((drawn[0][0] == drawn[1][0]).mean(), 1 / 14, 4000) < 4
    for index, (low, high) in enumerate(ops.STRONG_OPS.values()):
        place = (magnitude[op == index] - low) / (high - low)
        assert place.min() >= -1e-6
        assert place.max() <= 1 + 1e-6
        assert abs(place.mean() - 0.5) < 4 * np.sqrt(1 / 12 / place.size)
        assert abs(place.std() / np.sqrt(1 / 12) - 1) < 0.1


def test_cutout_sides_and_colour():
    config = dataclasses.replace(STILL, cutout=16)
    views = policy_of("strong", config, 64)(tf.ones([1500, 64, 64, 3]), tf.constant([4, 4]))
    holes = (views.numpy() != 1).all(-1)
    np.testing.assert_array_equal(np.unique(views.numpy()[holes], axis=0), [np.float32(MEAN)])
    tall, wide = holes.any(2).sum(1), holes.any(1).sum(1)
    np.testing.assert_array_equal(holes.sum((1, 2)), tall * wide)
    assert tall.min() == wide.min() == 1
    assert tall.max() == wide.max() == 16
    inside = ~(holes[:, [0, -1]].any((1, 2)) | holes[:, :, [0, -1]].any((1, 2)))
    np.testing.assert_array_equal(tall[inside], wide[inside])
    assert abs(np.maximum(tall, wide).mean() - 8.5) < 4 * 4.6 / np.sqrt(1500)
    # Centres are uniform over the pixels, so that holes are clipped at the borders.
    untouched = np.mean([((63 - side) / 64) ** 2 for side in range(1, 17)])
    assert off_by(inside.mean(), untouched, 1500) < 4


def test_longest_cutout_of_the_official_sizes():
    sides = [policies.cutout_limit(CONFIG, size) for size in (32, 96, 224)]
    assert sides == [16, 32, 75]
    assert policies.cutout_limit(AugmentConfig(cutout=5), 32) == 5


@pytest.mark.parametrize("name", NAMES)
def test_host_is_deterministic_in_its_seed(rng, name):
    policy = host.make(name, AugmentConfig(rotate=10.0), size=16, mean=MEAN)
    for shape in ((16, 16, 3), (17, 29, 3), (11, 9, 3)):
        image = rng.integers(0, 256, shape).astype(np.uint8)
        before = image.copy()
        first, again, other = policy(image, 5), policy(image, 5), policy(image, 6)
        assert first.shape == (16, 16, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(image, before)
        assert (name == "none") == np.array_equal(first, other)
    first, other = (policy(image, generator) for generator in [np.random.default_rng(5)] * 2)
    np.testing.assert_array_equal(first, policy(image, np.random.default_rng(5)))
    assert (name == "none") == np.array_equal(first, other)


def test_host_refuses_what_is_no_8_bit_rgb():
    policy = host.make("none", CONFIG, size=8, mean=MEAN)
    with pytest.raises(DataError, match=r"uint8 \[H,W,3\]"):
        policy(np.zeros((8, 8, 3)), 0)
    with pytest.raises(DataError, match=r"\[8, 8\]"):
        policy(np.zeros((8, 8), np.uint8), 0)


def test_host_draws_are_independent():
    """Albumentations' own seeding would make every grey image flipped and jittered."""
    config = dataclasses.replace(STILL, flip=0.5, grayscale_probability=0.4)
    policy = host.make("simclr", config, size=8, mean=MEAN)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = (90, 150, 30)
    views = np.stack([policy(image, seed) for seed in range(1500)])
    flipped = views[:, 0, 0].max(1) == 0
    grey = np.ptp(views.max((1, 2)), axis=1) == 0
    assert off_by(flipped.mean(), 0.5, 1500) < 4
    assert off_by(grey.mean(), 0.4, 1500) < 4
    assert off_by((flipped & grey).mean(), 0.2, 1500) < 4


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in NAMES), ("simclr", {"blur": 0.5, "solarize": 0.3})],
)
def test_device_and_host_agree_in_distribution(name, options):
    """Mean, spread and colourfulness over many views of one smooth image."""
    count, side = 1200, 24
    y, x = np.mgrid[:side, :side] / (side - 1)
    image = np.stack([0.2 + 0.6 * x, 0.3 + 0.5 * y, 0.8 - 0.4 * x * y], -1)
    image = np.round(255 * image).astype(np.uint8)
    policy = host.make(name, CONFIG, size=16, mean=MEAN, **options)
    on_host = np.stack([policy(image, seed) for seed in range(count)]) / 255.0
    batch = tf.constant(np.repeat(image[None] / 255, count, 0), tf.float32)
    on_device = make(name, CONFIG, size=16, mean=MEAN, **options)(batch, tf.constant([3, 3]))
    on_device = on_device.numpy()
    for statistic in STATISTICS:
        found, expected = statistic(on_device), statistic(on_host)
        error = np.hypot(found.std(), expected.std()) / np.sqrt(count)
        # 0.004 is one level: the host works on 8 bits.
        assert abs(found.mean() - expected.mean()) < 4 * error + 0.004, statistic
        assert abs(found.std() - expected.std()) < 0.1 * expected.std() + 0.004, statistic


STATISTICS = (
    lambda views: views.mean((1, 2))[:, 0],
    lambda views: views.mean((1, 2))[:, 1],
    lambda views: views.mean((1, 2))[:, 2],
    lambda views: views.std((1, 2, 3)),
    lambda views: np.ptp(views, axis=3).mean((1, 2)),
    lambda views: np.abs(np.diff(views, axis=1)).mean((1, 2, 3)),
    lambda views: views[:, :, :8].mean((1, 2, 3)) - views[:, :, 8:].mean((1, 2, 3)),
)


# Policies of somebody else's


def test_a_policy_by_a_dotted_name(tmp_path, monkeypatch):
    (tmp_path / "my_views.py").write_text(
        "def darker(config, size, mean, factor=0.5):\n"
        "    return lambda images, seed: images[:, :size, :size] * factor\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = make("my_views.darker", AugmentConfig(), size=3, mean=(0, 0, 0), factor=0.25)
    images = tf.ones([2, 4, 4, 3])
    np.testing.assert_array_equal(policy(images, tf.constant([0, 1])), np.full((2, 3, 3, 3), 0.25))
    for name in ("my_views.lighter", "no_views.darker"):
        with pytest.raises(ConfigError, match=f"^augmentation '{name}' cannot be imported"):
            make(name, AugmentConfig(), size=3, mean=(0, 0, 0))
    with pytest.raises(ConfigError, match="is of the device: set augment.backend: device"):
        host.make("my_views.darker", AugmentConfig(), size=3, mean=(0, 0, 0))
