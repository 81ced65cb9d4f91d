from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_runs import opened

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import StageError
from scan_tf.files import read_metrics
from scan_tf.pipeline import selection
from scan_tf.pipeline.run_dir import Run


class NoTest(Run):
    """A run of a data set without test images."""

    def images(self, split) -> ImageSet | None:
        return None if split == "test" else super().images(split)


def test_selection_on_a_test_split_that_is_not_there(finished):
    work = NoTest(opened(finished, "scan.selection=test").config, finished)
    with pytest.raises(StageError, match="scan.selection: 'test', but 'folder' has no test split"):
        selection.validation(work)


def test_selection_looks_at_images_that_are_not_trained_on(finished):
    found = selection.validation(opened(finished))
    assert (found.held_out.sum(), len(found.images), found.indices.shape) == (6, 6, (6, 3))
    held_out = opened(finished).train_images.images[found.held_out]
    np.testing.assert_array_equal(found.images.images, held_out)
    assert len(found.features) == 6
    for split, count in (("train", 60), ("test", 15)):
        work = opened(finished, f"scan.selection={split}")
        found = selection.validation(work)
        assert (found.held_out.sum(), found.images.split) == (0, split)
        assert found.indices.shape == (count, 3)


def test_the_kept_epoch_is_the_one_of_the_lowest_selection_loss(finished):
    logged = read_metrics(finished / "scan" / "metrics.jsonl")
    best = json.loads((finished / "scan" / "best.json").read_text(encoding="utf-8"))
    losses = {r["epoch"]: r["selection"] for r in logged if "selection" in r}
    assert len(losses) == 12
    assert best["epoch"] == min(losses, key=losses.__getitem__)
    assert best["total"] == min(losses.values())
    assert best["total"] == pytest.approx(best["consistency"] - best["entropy"])
