from __future__ import annotations

import copy
import math

import keras
import numpy as np
import pytest
import small_tasks
import tensorflow as tf
from small_tasks import BATCH, BLOCKS, CLUSTERS, Given, backbone, batch, trainer, values

from scan_tf.config import OptimizerConfig
from scan_tf.errors import ConfigError
from scan_tf.methods.losses import info_nce
from scan_tf.methods.pretext import moco
from scan_tf.models.torch_names import to_torch
from scan_tf.storage.files import read_metrics

pytestmark = pytest.mark.usefixtures("seeded")
PROJECTION = 8


def make(num_images: int = 32, blocks=BLOCKS, **settings) -> moco.Method:
    config, network = moco.Config(batch_size=BATCH, **settings), backbone(blocks=blocks)
    return moco.Method(config, network, projection_dim=PROJECTION, num_images=num_images)


def unit(rng, rows):
    array = rng.standard_normal((rows, PROJECTION))
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


# The loss


def test_the_loss_is_that_of_the_paper(rng):
    """Equation 1 of He et al., written out for every query."""
    queries, keys, queue = unit(rng, 5), unit(rng, 5), unit(rng, 7)
    expected = []
    for i in range(5):
        positive = math.exp(float(queries[i] @ keys[i]) / 0.2)
        negatives = [math.exp(float(queries[i] @ row) / 0.2) for row in queue]
        expected.append(-math.log(positive / (positive + sum(negatives))))
    loss, similarity = info_nce(queries, keys, queue, 0.2)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(similarity) == pytest.approx((queries * keys).sum(1).mean(), rel=1e-5)


def test_closed_forms(rng):
    queries = unit(rng, 4)
    # All alike: a guess among one key and Q others.
    alike = np.repeat(queries[:1], 9, axis=0)
    loss, _ = info_nce(alike[:1], alike[:1], alike, 0.07)
    assert float(loss) == pytest.approx(math.log(10), rel=1e-5)
    # Opposite to all of the queue, at a low temperature: no doubt is left, and nothing overflows.
    loss, similarity = info_nce(alike[:1], alike[:1], -alike, 1e-3)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert float(similarity) == pytest.approx(1, rel=1e-5)


# The key encoder


def test_the_key_encoder_starts_as_the_query_encoder():
    task = make()
    for name, (weights, statistics) in task.key_encoder.copies.items():
        network = task.networks[name]
        np.testing.assert_equal(values(weights), values(network.trainable_variables))
        np.testing.assert_equal(values(statistics), values(network.non_trainable_variables))


def test_keys_are_those_of_a_second_network_in_training_mode():
    """Its weights, batch statistics and running averages are the key encoder's, not the query's."""
    task = make()
    second, weights = backbone(), task.key_encoder.copies["backbone"][0]
    for variable, weight in zip(second.trainable_variables, weights, strict=True):
        weight.assign(weight * 1.1)
        variable.assign(weight)
    given = batch(task)
    before = values(task.backbone.variables)
    keys = task._encode_keys(given["key"])
    np.testing.assert_equal(values(task.backbone.variables), before)

    features = second(given["key"], training=True)
    np.testing.assert_allclose(keys, task.projector(features), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(
        task.key_encoder.copies["backbone"][1], second.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert np.ptp(np.asarray(task.key_encoder.copies["backbone"][1][0])) > 0  # they did move


def test_it_has_no_gradient():
    task = make()
    weights = [v for parts in task.key_encoder.copies.values() for v in parts[0]]
    given = batch(task)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss, _ = task.loss(given)
    assert tape.gradient(loss, weights) == [None] * len(weights)


def test_an_update_moves_it_by_the_momentum(tmp_path):
    task = make(momentum=0.75)
    pairs = [
        (key, query)
        for name, (weights, _) in task.key_encoder.copies.items()
        for key, query in zip(weights, task.networks[name].trainable_variables, strict=True)
    ]
    before = values([key for key, _ in pairs])
    optimizer = OptimizerConfig("sgd", lr=0.5)
    trainer(task, Given([batch(task)]), tmp_path, optimizer=optimizer).run()
    for (key, query), old in zip(pairs, before, strict=True):
        new = np.asarray(query)
        np.testing.assert_allclose(key, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7)
        assert (new != old).any()


# The queue


def test_the_queue_is_first_in_first_out(tmp_path):
    task = make(num_images=64, queue_size=3 * BATCH)
    start = np.asarray(task.queue).copy()
    np.testing.assert_allclose(np.linalg.norm(start, axis=1), 1, rtol=1e-5)
    seen = []
    for step in range(4):
        given = batch(task, step)
        task.loss(given)
        seen.append(np.asarray(task._keys).copy())
        task.after_update(given)
        expected = np.concatenate([start, *seen])[-len(start) :]
        np.testing.assert_array_equal(task.queue, expected)
    np.testing.assert_allclose(np.linalg.norm(task.queue, axis=1), 1, rtol=1e-5)
    assert np.ptp(np.asarray(task.queue), axis=0).max() > 0


def test_keys_of_a_batch_are_not_their_own_negatives():
    """The loss is taken before the keys are put into the queue."""
    task = make()
    given = batch(task)
    queue = np.asarray(task.queue).copy()
    loss, _ = task.loss(given)
    np.testing.assert_array_equal(task.queue, queue)
    keys = task._keys
    queries = task.projector(task.backbone(given["query"], training=True))
    expected, _ = info_nce(queries, keys, queue, task.config.temperature)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("num_images", "size"),
    [(50_000, 4096), (8_192, 4096), (8_191, 3584), (1_797, 512), (1_000, 512)],
)
def test_the_size_of_the_queue(num_images, size):
    """Half of the images at most, in whole steps, and one step at least."""
    assert moco.queue_size(moco.Config(), num_images) == size
    assert moco.queue_size(moco.Config(symmetric=True, batch_size=256), num_images) == size


def test_a_size_that_is_given_is_kept_or_refused():
    config = moco.Config(queue_size=1024)
    assert moco.queue_size(config, 1024) == 1024
    with pytest.raises(ConfigError, match=r"pretext.queue_size: expected at most 1023.*got 1024"):
        moco.queue_size(config, 1023)
    expected = "^queue_size: expected a multiple of batch_size=512, got 1000"
    with pytest.raises(ConfigError, match=expected):
        moco.Config(queue_size=1000)
    expected = "^queue_size: expected a multiple of twice batch_size=512, got 1536"
    with pytest.raises(ConfigError, match=expected):
        moco.Config(queue_size=1536, symmetric=True)


# Both views as queries and as keys


def test_the_symmetric_loss_is_the_sum_of_both_orders():
    both, one = make(symmetric=True), make()
    for ours, theirs in zip(one.state[:-1], both.state[:-1], strict=True):
        ours.assign(theirs)
    given = batch(both)
    one.queue = both.queue  # twice as long as its own
    loss, metrics = both.loss(given)
    keys = []
    expected = []
    for order in (given, {"query": given["key"], "key": given["query"]}):
        expected.append(one.loss(order))
        keys.append(one._keys)
    assert float(loss) == pytest.approx(sum(float(part) for part, _ in expected), rel=1e-5)
    similarities = [float(part["positive_similarity"]) for _, part in expected]
    assert float(metrics["positive_similarity"]) == pytest.approx(np.mean(similarities), rel=1e-4)
    both.after_update(given)
    np.testing.assert_allclose(both.queue[-2 * BATCH :], np.concatenate(keys), atol=1e-5)


# BatchNorm by groups


def test_groups_of_the_queries_are_normalised_apart():
    """In the order of the batch; the running averages move to the mean over the groups."""
    task, plain = make(batch_norm_groups=2), backbone()
    given = batch(task)
    for ours, theirs in zip(plain.variables, task.backbone.variables, strict=True):
        ours.assign(theirs)
    start = values(plain.non_trainable_variables)
    queries = task._encode_queries(given["query"])
    expected, averages = [], []
    for part in tf.split(given["query"], 2):
        expected.append(task.projector(plain(part, training=True)))
        averages.append(values(plain.non_trainable_variables))
        for variable, value in zip(plain.non_trainable_variables, start, strict=True):
            variable.assign(value)
    np.testing.assert_allclose(queries, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    for ours, *parts in zip(task.backbone.non_trainable_variables, *averages, strict=True):
        np.testing.assert_allclose(ours, np.mean(parts, axis=0), rtol=1e-4, atol=1e-6)


def test_keys_are_normalised_in_other_company_and_come_back_in_their_order():
    """Each group of keys takes as many images from every group of queries."""
    task = make(batch_norm_groups=2)
    given = batch(task)
    even = np.arange(BATCH) % 2 == 0
    keys = np.asarray(task._encode_keys(given["key"]))
    second = backbone()
    for variable, weight in zip(
        second.trainable_variables, task.key_encoder.copies["backbone"][0], strict=True
    ):
        variable.assign(weight)
    for group in (even, ~even):
        features = second(given["key"][group], training=True)
        np.testing.assert_allclose(keys[group], task.projector(features), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_queries_of_every_group():
    task = make(batch_norm_groups=4)
    variables = task.trainable_variables
    given = batch(task)
    with tf.GradientTape() as tape:
        loss, _ = task.loss(given)
    assert all(np.any(slope) for slope in tape.gradient(loss, variables))


def test_groups_must_divide_the_batch():
    expected = "^batch_norm_groups: expected a divisor of batch_size=512, got 3"
    with pytest.raises(ConfigError, match=expected):
        moco.Config(batch_norm_groups=3)


# The rest of the contract is in test_conformance.py


def test_the_settings_of_the_papers():
    """CIFAR-10's of He et al., but for the temperature of Chen et al."""
    config = moco.Config()
    assert (config.epochs, config.batch_size) == (200, 512)
    assert (config.temperature, config.momentum) == (0.2, 0.99)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", 0.06, 0.9)
    assert (optimizer.l2, optimizer.schedule, optimizer.final_fraction) == (5e-4, "cosine", 0)


def test_the_projection_is_as_wide_as_the_feature_unless_told():
    task = make()
    assert task.projector.dims[1] == task.backbone.feature_dim
    assert make(hidden=5).projector.dims[1] == 5


def test_neighbours_are_found_by_the_backbone():
    task = make()
    images = tf.random.stateless_normal([3, small_tasks.SIZE, small_tasks.SIZE, 3], [1, 2])
    features = np.asarray(task.backbone(task.normalise(images)))
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(task.embed(images), expected, rtol=1e-5)
    assert task.embed(images).shape[1] not in (PROJECTION, CLUSTERS)


@pytest.mark.slow
def test_it_learns_to_tell_images_apart(tmp_path):
    """Over batches of different images, queue and key encoder included, the loss falls."""
    keras.utils.set_random_seed(0)
    settings = {"queue_size": 2 * BATCH, "momentum": 0.9}
    task = make(num_images=64, blocks=small_tasks.RESNET10, **settings)
    batches = [batch(task, step, augmented=True) for step in range(4)]
    source = Given(batches)
    loop = trainer(task, source, tmp_path, epochs=30, optimizer=small_tasks.FAST)
    update = tf.function(loop.update, autograph=False)
    found = [float(update(inputs)["loss"]) for inputs in source.inputs(0, 60)]
    assert np.mean(found[-8:]) < np.mean(found[4:12]) - 0.1


def test_steps_are_those_of_algorithm_1_in_pytorch(tmp_path):
    """Four whole steps, written once more after the pseudocode of He et al., give the same."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")
    import torch_networks

    task = make(num_images=64, queue_size=2 * BATCH, momentum=0.9)
    features = task.backbone.feature_dim
    network = torch_networks.ResNet(BLOCKS, fc=torch_networks.projector(features, PROJECTION))
    tensors = to_torch(task.backbone) | to_torch(task.projector, "fc.")
    network.load_state_dict({n: torch.tensor(t) for n, t in tensors.items()}, strict=True)
    follower, queue = copy.deepcopy(network), torch.tensor(np.asarray(task.queue))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    batches = [batch(task, step) for step in range(4)]
    expected = []
    for given in batches:
        query, key = (
            torch.tensor(np.asarray(given[view])).permute(0, 3, 1, 2) for view in ("query", "key")
        )
        q = torch.nn.functional.normalize(network(query))
        with torch.no_grad():
            k = torch.nn.functional.normalize(follower(key))
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.2
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(follower.parameters(), network.parameters(), strict=True):
                slow.copy_(0.9 * slow + 0.1 * fast)
        queue = torch.cat([queue[len(k) :], k])
        expected.append(loss.item())

    settings = OptimizerConfig("sgd", lr=0.1, momentum=0.9, l2=1e-4)
    trainer(task, Given(batches), tmp_path, optimizer=settings).run()
    found = [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(task.queue, queue, atol=1e-3)
    assert max(expected) - min(expected) > 0.1  # the steps did something
