"""Digits: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

The only data set that needs no file: for the quick start and for tests. All images are "train".
"""

from __future__ import annotations

import numpy as np

from scan_tf.config import DataConfig
from scan_tf.data.image_set import ImageSet, Split
from scan_tf.data.images import allocate

# Four 3x3 stride-2 stages of a ResNet still see something at 16 pixels, and it stays fast.
DEFAULT_SIZE = 16

PRETEXT_IS_TRAIN = True


def load(config: DataConfig, split: Split) -> ImageSet | None:
    """Load the digits as gray RGB, enlarged (bicubic) to `image_size`, 16 when not given.

    Mean and deviation are those of the images themselves. There is no test split: None.
    """
    if split == "test":
        return None
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, size = load_digits(), config.image_size or DEFAULT_SIZE
    # The values are counts of ink, 0..16.
    gray = (digits.images * (255 / 16)).round().astype(np.uint8)
    images = allocate(len(gray), size)
    for index, small in enumerate(gray):
        large = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
        images[index] = np.asarray(large)[..., np.newaxis]
    mean, std = float(images.mean() / 255), float(images.std() / 255)
    return ImageSet(
        name="digits",
        split=split,
        images=images,
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(n) for n in digits.target_names),
        mean=(mean, mean, mean),
        std=(std, std, std),
    )
