"""The README's example of a pretext works as it stands."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from scan_tf import config
from scan_tf.methods import catalog, pretext
from scan_tf.models import resnet

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.fixture
def barlow(tmp_path, monkeypatch):
    """The example's file, in a folder where pretexts are looked for."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if block.startswith('"""Barlow Twins'))
    (tmp_path / "barlow.py").write_text(block, encoding="utf-8")
    monkeypatch.setattr(pretext, "__path__", [*pretext.__path__, str(tmp_path)])


def test_example_pretext_is_found_typed_and_trains(barlow):
    assert "barlow" in catalog.available()
    settings = config.from_dict(
        {"pretext": {"name": "barlow", "redundancy": 0.01}}
    )
    assert settings.pretext.redundancy == 0.01
    with pytest.raises(config.ConfigError, match="pretext.redundancy"):
        config.from_dict(
            {"pretext": {"name": "barlow", "redundancy": "x"}}
        )
    model = config.ModelConfig("resnet10", width=4)
    backbone = resnet.build(model, dtype="float32", image_size=16)
    task = catalog.method_class("pretext", "barlow")(
        settings.pretext, backbone, projection_dim=8, num_images=16
    )
    views = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss, _ = task.loss({"a": views[0], "b": views[1]})
    gradients = tape.gradient(loss, task.trainable_variables)
    assert np.isfinite(loss)
    assert all(g is not None for g in gradients)
    np.testing.assert_allclose(np.linalg.norm(task.embed(views[0]), axis=1), 1, rtol=1e-5)


def test_readme_names_existing_recipes():
    names = re.findall(r"--config (\w+)|recipe=\"(\w+)\"", README.read_text(encoding="utf-8"))
    known = {path.stem for path in (README.parent / "configs").glob("*.yaml")}
    assert {one or other for one, other in names} - {"NAME"} <= known
    assert len(names) > 3
