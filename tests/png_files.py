"""Reading the PNG files that the pictures and charts are."""

from __future__ import annotations

import numpy as np
from PIL import Image

ODD_NAMES = ["a very long class name, such as large omnivores and herbivores", "a$b$_^", "x\ny\t"]


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_colour(picture: np.ndarray, colour, share: float = 0.0) -> bool:
    """Whether more than `share` of the pixels are of this colour, within rounding."""
    near = np.abs(picture.astype(int) - np.asarray(colour)).max(axis=-1) <= 2
    return near.mean() > share
