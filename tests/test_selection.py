from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_runs import copy, opened, weights

from scan_tf.data.image_set import ImageSet
from scan_tf.errors import StageError
from scan_tf.pipeline import selection, stages
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage.files import read_metrics


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


@pytest.mark.parametrize(
    ("consistency", "patience", "expected"),
    [
        ([1.0, 1.0, 1.0], 0, False),
        ([1.0, 0.9], 2, False),  # too few
        ([1.0, 0.9, 0.8], 2, False),
        ([1.0, 0.995, 0.993], 2, True),
        ([1.0, 0.995, 0.98], 2, False),
        ([0.8, 0.9, 1.0], 2, True),
    ],
)
def test_when_the_consistency_has_settled(consistency, patience, expected):
    assert selection.settled(consistency, patience) is expected


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
def test_scan_ends_when_it_has_settled_and_ends_alike_after_an_interruption(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="scan")
    # At this rate hardly anything is learnt, so that it settles at once.
    overrides = ["scan.patience=2", "scan.optimizer.lr=1e-7"]
    stages.run_stage(opened(run, *overrides), "scan")
    rows = read_metrics(run / "scan" / "metrics.jsonl")
    assert rows[-1]["epoch"] == 3
    assert opened(run, *overrides).record("scan").is_done
    before = weights(run, "scan")
    # As if it had been stopped after the checkpoint of the last epoch.
    for path in (run / "status" / "scan.json", run / "scan" / "weights.npz"):
        path.unlink()
    stages.run_stage(opened(run, *overrides), "scan")
    assert read_metrics(run / "scan" / "metrics.jsonl") == rows
    np.testing.assert_equal(weights(run, "scan"), before)


def test_the_alarms_are_logged_after_every_epoch(finished):
    for stage in ("scan", "selflabel"):
        rows = [r for r in read_metrics(finished / stage / "metrics.jsonl") if "size_entropy" in r]
        assert [r["epoch"] for r in rows] == list(range(1, 13))
        for row in rows:
            assert 0 <= row["size_entropy"] <= np.log(3) + 1e-6
            assert row["confident_clusters"] in (0, 1, 2, 3)
            assert 0 <= row["agreement_ece"] <= 1
