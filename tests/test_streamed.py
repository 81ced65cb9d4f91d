"""A set that is no array: it has what `Images` says, and the program asks for nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from small_tasks import PLAIN, QUIET, images
from tiny_runs import copy, opened

from scan_tf.config import AugmentConfig
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import DataError
from scan_tf.features.cache import content_digest
from scan_tf.features.embedding import embed
from scan_tf.methods.task import View
from scan_tf.pipeline import stages
from scan_tf.training.loader import Loader, Order


class Streamed:
    """Images that are made when they are asked for, and not before."""

    dtype = np.dtype(np.uint8)

    def __init__(self, source: np.ndarray):
        self._rows = [image.tobytes() for image in source]
        self.shape = source.shape
        self.most = 0  # asked for at a time

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows):
        chosen = np.arange(len(self))[rows]
        self.most = max(self.most, chosen.size)
        made = [np.frombuffer(self._rows[i], np.uint8) for i in chosen.reshape(-1)]
        return np.reshape(made, (*chosen.shape, *self.shape[1:]))


def streamed(source: ImageSet) -> ImageSet:
    return dataclasses.replace(source, images=Streamed(np.asarray(source.images)))


@pytest.mark.parametrize(("kind", "resident_mib"), [("cpu", 64), ("gpu", 64), ("gpu", 0)])
def test_batches_are_those_of_the_array(kind, resident_mib):
    def batches(source):
        loader = Loader(
            source,
            {"a": View("weak")},
            Order(len(source), 8, seed=0, neighbors=None),
            normalise=lambda x: x,
            augment_config=AugmentConfig(),
            runtime=dataclasses.replace(QUIET, resident_mib=resident_mib),
            device=dataclasses.replace(PLAIN, kind=kind),
        )
        return [np.asarray(loader.prepare(inputs)["a"]) for inputs in loader.inputs(0, 3)]

    source = streamed(images())
    np.testing.assert_array_equal(batches(source), batches(images()))
    resident = kind == "gpu" and resident_mib
    assert source.images.most == (len(source) if resident else 8)


def test_a_network_and_a_digest_see_the_same():
    def brightness(x):
        return tf.reduce_mean(x, axis=[1, 2])

    source = streamed(images())
    np.testing.assert_array_equal(
        embed(brightness, source, batch_size=10), embed(brightness, images(), batch_size=10)
    )
    assert content_digest(source.images) == content_digest(images().images)


def test_what_is_no_image_is_refused():
    with pytest.raises(DataError, match=r"got uint8 \[32, 16, 8, 3\]"):
        dataclasses.replace(images(), images=Streamed(images().images[:, :, ::2]))


@pytest.mark.slow
def test_a_finished_run_is_evaluated_and_exported(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="evaluate")
    (run / "neighbors" / "features.npz").unlink()
    work = opened(run)
    read = {split: streamed(work.images(split)) for split in ("train", "test")}
    work.images = read.get
    for stage in ("evaluate", "export"):
        stages.run_stage(work, stage)
    for name in ("report.json", "assignments.csv"):
        ours, theirs = ((r / "eval" / name).read_text(encoding="utf-8") for r in (run, finished))
        assert ours == theirs
