"""The plan on paper: what it reckons from, and that the page says what the program reckons."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import tensorflow as tf

from scan_tf.config import ModelConfig
from scan_tf.models import resnet
from scan_tf.models.heads import ProjectionHead

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("scaling_plan")


def test_the_page_has_the_tables_that_the_program_writes(plan):
    page = plan.DOCUMENT.read_text(encoding="utf-8")
    assert page == plan.with_tables(page), "run: python scripts/scaling_plan.py"


def test_the_network_is_the_one_that_the_program_makes(plan):
    made = resnet.build(ModelConfig("resnet50", stem="imagenet"), image_size=224, dtype="float32")
    head = ProjectionHead(made.feature_dim, 2048, plan.NETWORK.projection)
    trained = sum(v.shape.num_elements() for n in (made, head) for v in n.trainable_variables)
    assert trained == plan.NETWORK.trained
    norms = [layer for layer in made._flatten_layers() if type(layer).__name__ == "BatchNorm"]
    assert sum(layer.gamma.shape[0] for layer in norms) == plan.NETWORK.channels
    assert made.feature_dim == plan.NETWORK.features
    image = tf.TensorSpec([1, 224, 224, 3], tf.float32)
    forward = tf.function(lambda x: made(x, training=False), autograph=False)
    operations = forward.get_concrete_function(image).graph.get_operations()
    outputs = [o.outputs[0].shape.num_elements() for o in operations if o.type == "Conv2D"]
    assert sum(outputs) == plan.NETWORK.activations
    flop = importlib.import_module("bench_step").forward_flop(made, 224)
    assert flop == pytest.approx(plan.NETWORK.forward, rel=1e-3)


def test_a_few_lines_by_hand(plan):
    job, rates = plan.JOBS[0], plan.RATES
    one, eight = (plan.hours(job, gpus) for gpus in (1, 8))
    images_per_second = 125e12 / (6 * 8.174e9)  # two views, forward and twice that back
    assert one["pretext, 200 epochs"] == pytest.approx(1281167 * 200 / images_per_second / 3600)
    assert one["decode once, on one machine"] == pytest.approx(
        1281167 / (16 * rates.decoded) / 3600
    )
    name = "neighbours, exact, on the CPUs"
    assert one[name] == pytest.approx(rates.search * 6.405835**2 / 16 / 3600)
    assert one[name] == pytest.approx(8 * eight[name])
    step = plan.step(8)
    assert step["gradients"] == pytest.approx(2 * 7 / 8 * 4 * 27_966_656)
    assert step["gathered"] == pytest.approx(7 / 8 * 4 * 2 * 1024 * 2048)
    assert plan.sizes(job)["decoded images, on disk"] == 1281167 * 224 * 224 * 3


def test_numbers_have_two_digits_that_count(plan):
    values = (0.0123, 0.97, 1.04, 9.94, 9.96, 1234.4)
    assert [plan.number(v) for v in values] == ["0.01", "1", "1.0", "9.9", "10", "1,234"]
