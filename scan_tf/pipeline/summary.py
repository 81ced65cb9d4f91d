"""What was understood of the images, and what lies ahead, said before anything is learnt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scan_tf import machine
from scan_tf.data import headers, quality
from scan_tf.data.image_set import ImageSet
from scan_tf.pipeline import decided, plan, sizes
from scan_tf.pipeline.run_dir import Run

_CLASSES = 20


def lines(run: Run, evaluated: ImageSet) -> Iterator[str]:
    """The splits with their classes, what is left out or odd, where labels come from; steps."""
    train, size = run.train_images, run.train_images.image_size
    count = "the number of clusters is decided on the features"
    if not decided.is_open(run):
        count = f"{run.num_clusters} clusters"
    yield f"{train.name}: images of {size} x {size} pixels, {count}"
    pretext = run.pretext_images
    if pretext is not train:
        yield f"  {len(pretext):,} images for the pretext"
    shown = [train] if evaluated is train else [train, evaluated]
    for images in shown:
        scored = ", scored" if images is evaluated else ""
        yield f"  {images.split}: {len(images):,} images{_classes(images)}{scored}"
        if images.skipped:
            yield f"  {images.split}: {len(images.skipped):,} files left out, which cannot be read"
    if train.paths is not None:
        if heads := headers.look(train.paths):
            yield f"  {heads.text}"
        side = size if heads is None else heads.side
        for line in quality.look(train.images, side=side).lines(train.paths):
            yield f"  {line}"
    if train.labels is None:
        yield "  no labels: scores that compare with them are left out"
    elif train.paths is not None:
        yield "  labels are the names of the sub-folders, for the scores alone"
    else:
        yield "  labels are read for the scores alone"
    steps = ", ".join(f"{stage} {_steps(run, stage):,}" for stage in plan.trained(run.config))
    yield f"  steps: {steps}; on {machine.in_words(run.device)}"


def _steps(run: Run, stage: str) -> int:
    """All steps of a stage."""
    section = getattr(run.config, stage)
    images = run.pretext_images if stage == "pretext" else run.train_images
    count = sizes.learning(run.config, stage, len(images))
    return int(section.epochs * (count // section.batch_size))


def _classes(images: ImageSet) -> str:
    if images.labels is None:
        return ""
    counts = np.bincount(images.labels, minlength=len(images.class_names))
    named = [f"{n} {c:,}" for n, c in zip(images.class_names, counts, strict=True)]
    more = f", and {len(named) - _CLASSES} more" if len(named) > _CLASSES else ""
    return f" of {len(named)} classes ({', '.join(named[:_CLASSES])}{more})"
