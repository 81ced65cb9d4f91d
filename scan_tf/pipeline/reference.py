"""The images of a run beside those that it learned from: what outliers are told by."""

from __future__ import annotations

import numpy as np

from scan_tf.data.image_set import ImageSet
from scan_tf.features import outliers
from scan_tf.models.backbone import Backbone
from scan_tf.models.frozen import Frozen
from scan_tf.pipeline import features
from scan_tf.pipeline.run_dir import Run


def compare(
    run: Run, network: Backbone, images: ImageSet, embedded: np.ndarray
) -> tuple[outliers.Reference, np.ndarray] | None:
    """The reference by the training images, and the distance float32 [N] of the evaluated ones.

    Args:
        run: the run.
        network: the backbone that gave the features.
        images: the N evaluated images.
        embedded: float32 [N,D], their features.

    Returns:
        None where there are too few training images to compare with.
    """
    train = run.train_images
    rows = outliers.sample(len(train), run.config.seed)
    if len(rows) < 3:
        return None
    if images.split == train.split:
        own = np.full(len(images), -1)
        own[rows] = np.arange(len(rows))
        found = outliers.reference(embedded[rows])
        return found, outliers.distances(found.bank, embedded, own=own)
    if isinstance(network, Frozen):  # whose features are stored, of all images
        of_train = features.of_backbone(run, network, train, None)[rows]
    else:
        of_train = features.of_backbone(run, network, train.subset(rows), None)
    found = outliers.reference(of_train)
    return found, outliers.distances(found.bank, embedded)
