from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import small_tasks
import tensorflow as tf
from small_tasks import COUNT, PLAIN, QUIET, images

from scan_tf.config import AugmentConfig
from scan_tf.errors import ConfigError
from scan_tf.methods.task import View
from scan_tf.replicas import ALONE, Replicas
from scan_tf.training.loader import CachedLoader, Loader, Order

VIEWS = {
    "none": View("none"),
    "weak": View("weak"),
    "simclr": View("simclr"),
    "strong": View("strong", of="neighbor"),
    "neighbor": View("none", of="neighbor"),
}
# Those that take no time to trace.
SIMPLE = {name: VIEWS[name] for name in ("none", "weak", "neighbor")}


def table(count=COUNT, columns=4):
    """Neighbours: column 0 is the image itself."""
    rows = np.random.default_rng(0).integers(0, count, (count, columns)).astype(np.int32)
    rows[:, 0] = np.arange(count)
    return rows


def make(
    data=None, *, views=SIMPLE, seed=3, backend="device", device=PLAIN, places=ALONE, **runtime
):
    return Loader(
        data or images(),
        views,
        Order(COUNT, 6, seed=seed, neighbors=table()),
        normalise=small_tasks.backbone().normalise,
        augment_config=AugmentConfig(backend=backend),
        runtime=dataclasses.replace(QUIET, **runtime),
        device=device,
        replicas=places,
    )


def batches(loader, start, stop):
    prepare = tf.function(loader.prepare, autograph=False)
    return [
        {k: np.asarray(v) for k, v in prepare(inputs).items()}
        for inputs in loader.inputs(start, stop)
    ]


# The order


def test_the_order_is_a_pure_function_of_seed_and_step():
    def order(seed=5):
        return Order(20, 3, seed=seed, neighbors=table(20))

    forwards, backwards = order(), order()
    expected = [forwards(s) for s in range(18)]
    for step in reversed(range(18)):
        np.testing.assert_equal(backwards(step), expected[step])
    np.testing.assert_equal(order()(7), expected[7])
    assert (order(6)(0)["index"] != expected[0]["index"]).any()
    assert expected[7]["seed"].tolist() == [5, 7]
    assert {v.dtype for v in expected[0].values()} == {np.dtype("int32")}


def test_every_image_comes_once_an_epoch_and_the_rest_is_dropped():
    order = Order(20, 6, seed=0, neighbors=None)
    assert order.steps_per_epoch == 3
    epochs = [np.concatenate([order(3 * e + s)["index"] for s in range(3)]) for e in range(30)]
    for index in epochs:
        assert len(set(index)) == 18
    assert "neighbor" not in order(0)
    # Other images are dropped in other epochs.
    assert set(np.concatenate(epochs)) == set(range(20))
    assert len({tuple(e) for e in epochs}) == 30


def test_neighbours_are_drawn_uniformly_and_include_the_image_itself():
    columns = 6
    rows = columns * np.arange(50)[:, None] + np.arange(columns)
    order = Order(50, 10, seed=0, neighbors=rows.astype(np.int32))
    drawn = np.concatenate([order(s)["neighbor"] - columns * order(s)["index"] for s in range(600)])
    counts = np.bincount(drawn, minlength=columns)
    assert len(counts) == columns
    expected = len(drawn) / columns
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * (1 - 1 / columns))


def test_fewer_images_than_a_batch():
    with pytest.raises(
        ConfigError,
        match="^batch_size: 8 is more than the 7 images to train on. Set it to 7 or less.$",
    ):
        Order(7, 8, seed=0, neighbors=None)
    assert Order(8, 8, seed=0, neighbors=None).steps_per_epoch == 1


# Images


@pytest.mark.usefixtures("eager")
def test_a_batch_holds_the_views_the_index_and_no_label():
    labelled = dataclasses.replace(
        images(), labels=np.arange(COUNT), class_names=tuple(map(str, range(COUNT)))
    )
    (batch,) = batches(make(labelled, views=VIEWS), 2, 3)
    assert set(batch) == {*VIEWS, "index"}
    assert batch["index"].dtype == np.int32
    for name in VIEWS:
        assert (batch[name].shape, batch[name].dtype) == ((6, 16, 16, 3), np.float32)


def test_views_are_of_the_anchor_and_of_the_drawn_neighbour():
    loader = make()
    order = Order(COUNT, 6, seed=3, neighbors=table())
    for step, batch in enumerate(batches(loader, 0, 7)):
        rows = order(step)
        np.testing.assert_array_equal(batch["index"], rows["index"])
        for name, of in (("none", "index"), ("neighbor", "neighbor")):
            pixels = images().images[rows[of]].astype(np.float32) / 255
            expected = small_tasks.backbone().normalise(tf.constant(pixels))
            np.testing.assert_allclose(batch[name], expected, rtol=1e-5, atol=1e-6)
        assert (rows["index"] != rows["neighbor"]).any()


@pytest.mark.parametrize("backend", ["device", "host"])
def test_a_view_may_have_a_size_and_several_crops(backend):
    views = {"one": View("weak"), "small": View("weak", size=8, count=3)}
    (batch,) = batches(make(views=views, backend=backend), 2, 3)
    assert batch["one"].shape == (6, 16, 16, 3)
    assert batch["small"].shape == (18, 8, 8, 3)
    crops = batch["small"].reshape(3, -1)
    assert all(np.abs(crops[i] - crops[j]).max() > 0 for i, j in ((0, 1), (0, 2), (1, 2)))
    again = make(views={"one": View("weak"), "small": View("weak", size=8)}, backend=backend)
    np.testing.assert_array_equal(batches(again, 2, 3)[0]["small"], batch["small"][:6])


def test_each_view_step_and_seed_is_augmented_anew():
    views = {"a": View("weak"), "b": View("weak")}
    first, second = batches(make(views=views), 0, 2)
    (other,) = batches(make(views=views, seed=4), 0, 1)
    fixed = {name: {} for name in ("a", "b")}
    for batch in (first, second, other):
        for name in views:
            fixed[name][len(fixed[name])] = np.sort(batch[name], axis=None)
    drawn = [values for name in views for values in fixed[name].values()]
    assert len({values.tobytes() for values in drawn}) == 6


def test_streamed_images_give_the_same_batches_as_resident_ones(tmp_path):
    resident, streamed = make(), make(resident_mib=0)
    assert "anchor_images" not in next(iter(resident.inputs(0, 1)))
    assert "anchor_images" in next(iter(streamed.inputs(0, 1)))
    expected = batches(resident, 0, 7)
    np.testing.assert_equal(batches(streamed, 0, 7), expected)
    # Starting in the middle gives what would have come there.
    np.testing.assert_equal(batches(streamed, 4, 7), expected[4:])
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images().images.shape)
    mapped[:] = images().images
    on_disk = make(dataclasses.replace(images(), images=mapped), resident_mib=0)
    np.testing.assert_equal(batches(on_disk, 2, 4), expected[2:4])


def test_a_process_reads_the_images_of_its_own_replicas_alone():
    second = Replicas()
    second.count = second.processes = 3
    second.number = 1
    (whole,) = make(resident_mib=0).inputs(4, 5)
    (own,) = make(places=second, resident_mib=0).inputs(4, 5)
    assert own.keys() == whole.keys()
    for of in ("anchor", "neighbor"):
        theirs, ours = whole[f"{of}_images"], own[f"{of}_images"]
        np.testing.assert_array_equal(ours[2:4], theirs[2:4])
        assert not ours[:2].any()
        assert not ours[4:].any()
        assert theirs.any(axis=(1, 2, 3)).all()
    for name in ("index", "neighbor", "seed"):
        np.testing.assert_array_equal(own[name], whole[name])


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (2, 3), (2, 4), (3, 9)])
def test_images_made_ahead_come_in_order(start, stop):
    steps = [int(i["seed"][1]) for i in make(resident_mib=0).inputs(start, stop)]
    assert steps == list(range(start, stop))


def test_an_error_while_images_are_made_ahead_is_not_lost():
    loader = make(resident_mib=0)
    loader.images = images(4)
    with pytest.raises(IndexError):
        list(loader.inputs(0, 3))


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    inputs = make(resident_mib=0).inputs(0, 1000)
    next(inputs)
    assert threading.active_count() == before + 1
    inputs.close()
    assert threading.active_count() == before


def test_the_host_gives_whole_levels_that_depend_on_seed_and_step_alone():
    loader = make(views=VIEWS, backend="host")
    inputs = list(loader.inputs(0, 4))
    for name in VIEWS:
        assert {i[name].shape for i in inputs} == {(6, 16, 16, 3)}
        assert {i[name].dtype for i in inputs} == {np.dtype("uint8")}
    again = list(make(views=VIEWS, backend="host").inputs(2, 4))
    np.testing.assert_equal(again, inputs[2:])
    (other,) = make(views=VIEWS, backend="host", seed=4).inputs(0, 1)
    assert (other["simclr"] != inputs[0]["simclr"]).any()
    batch = batches(loader, 1, 2)[0]
    device = batches(make(), 1, 2)[0]
    assert set(batch) == {*VIEWS, "index"}
    for name in ("index", "none", "neighbor"):
        np.testing.assert_allclose(batch[name], device[name], rtol=1e-6)
    data = images()
    low, high = (0 - np.array(data.mean)) / data.std, (1 - np.array(data.mean)) / data.std
    for name in VIEWS:
        assert (batch[name] >= low - 1e-5).all()
        assert (batch[name] <= high + 1e-5).all()
        assert batch[name].std() > 0.1


# Cached features


def test_cached_rows_are_of_the_right_image_and_of_any_view():
    views, count = 3, 30
    features = np.stack(np.meshgrid(range(views), range(count), indexing="ij"), -1)
    order = Order(count, 10, seed=0, neighbors=table(count))
    named = {"anchor": View("strong"), "neighbor": View("strong", of="neighbor")}
    loader = CachedLoader(dict.fromkeys(named, features.astype(np.float32)), named, order)
    drawn = {name: [] for name in named}
    for inputs, batch in zip(loader.inputs(0, 60), batches(loader, 0, 60), strict=True):
        assert set(batch) == {*named, "index"}
        np.testing.assert_array_equal(batch["anchor"][:, 1], inputs["index"])
        np.testing.assert_array_equal(batch["neighbor"][:, 1], inputs["neighbor"])
        for name in named:
            drawn[name].append(batch[name][:, 0].astype(int))
    for name in named:
        counts = np.bincount(np.concatenate(drawn[name]), minlength=views)
        assert len(counts) == views
        assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 2 / 3)
    assert any((a != b).any() for a, b in zip(*drawn.values(), strict=True))


def test_cached_rows_are_the_same_when_compiled():
    features = np.random.default_rng(0).random((4, COUNT, 5)).astype(np.float32)
    order = Order(COUNT, 8, seed=0, neighbors=table())
    loader = CachedLoader({"anchor": features}, {"anchor": View("none")}, order)
    inputs = {k: tf.constant(v) for k, v in next(loader.inputs(0, 1)).items()}
    compiled = tf.function(loader.prepare, jit_compile=True)(inputs)
    np.testing.assert_equal(
        {k: v.numpy() for k, v in compiled.items()},
        {k: v.numpy() for k, v in loader.prepare(inputs).items()},
    )
