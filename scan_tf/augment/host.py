"""The policies of `policies.py` on the host: one uint8 image at a time, in albumentations.

The reference path, and the one to extend with any albumentations transform. Where albumentations
departs from the paper's PIL operations (the fourteen strong ones, cutout) a transform of our own
calls PIL itself.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from scan_tf.augment import policies
from scan_tf.augment.ops import STRONG_OPS
from scan_tf.augment.policies import Mean
from scan_tf.config import AugmentConfig
from scan_tf.errors import ConfigError, DataError
from scan_tf.settings.schema import did_you_mean

# Albumentations asks the network for a newer version of itself unless told not to before import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: E402

HostPolicy = Callable[[np.ndarray, "np.random.Generator | int"], np.ndarray]
# cv2.BORDER_REPLICATE and cv2.BORDER_REFLECT_101.
_REPLICATE, _REFLECT = 1, 4


def make(name: str, config: AugmentConfig, *, size: int, mean: Mean, **options: Any) -> HostPolicy:
    """The policy called `name`, for one image on the host.

    Args:
        name: `none`, `weak`, `simclr` or `strong`.
        config: the parameters of all policies.
        size: side of the square images it returns.
        mean: mean colour of the data set, 0..1; the fill of cutout, rounded to whole levels.
        options: of this policy alone; `simclr` has `blur`, `solarize` and `area`.

    Returns:
        A function of an image uint8 [H,W,3] and a seed (or a generator, from which the seed is
        drawn) that returns uint8 [size,size,3] and is deterministic in the seed.

    Raises:
        ConfigError: there is no such policy, or two values of `config` do not go together.
    """
    makers: dict[str, Callable[..., list[A.BasicTransform]]]
    makers = {"none": _none, "weak": _weak, "simclr": _simclr, "strong": _strong}
    if "." in name:
        raise ConfigError(
            f"augmentation '{name}' is of the device: set augment.backend: device, or take one of "
            f"{', '.join(sorted(makers))}."
        )
    if name not in makers:
        raise ConfigError(f"augmentation '{name}' is unknown. {did_you_mean(name, makers)}")
    policies.check(config)
    return _Seeded(makers[name](config, size, mean, **options))


class _Seeded:
    """A pipeline that draws all its random numbers from the seed of each call."""

    def __init__(self, transforms: list[A.BasicTransform]):
        self._pipeline = A.Compose(transforms)
        # The generators belong to the pipeline: two threads must not draw from them at once.
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray, seed: np.random.Generator | int) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(
                f"image: expected uint8 [H,W,3], got {image.dtype} {list(image.shape)}. "
                "Convert it to 8-bit RGB first."
            )
        generator = np.random.default_rng(seed)
        with self._lock:
            # One stream for all transforms. Compose.set_random_seed would give each its own copy
            # of the same stream: whatever is grey would then be flipped, too.
            python_random = random.Random(int(generator.integers(2**63)))
            self._pipeline.set_random_state(generator, python_random)
            return self._pipeline(image=image)["image"]


def _none(config: AugmentConfig, size: int, mean: Mean) -> list[A.BasicTransform]:
    return [_fit(size), A.CenterCrop(size, size)]


def _weak(config: AugmentConfig, size: int, mean: Mean) -> list[A.BasicTransform]:
    pad = A.Pad(config.weak_padding, border_mode=_REFLECT)
    crop = A.RandomCrop(size, size)
    return [*_rotation(config), _fit(size), pad, crop, A.HorizontalFlip(p=config.flip)]


def _simclr(
    config: AugmentConfig,
    size: int,
    mean: Mean,
    *,
    blur: float = 0.0,
    solarize: float = 0.0,
    area: tuple[float, float] | None = None,
) -> list[A.BasicTransform]:
    scale, ratio = area or config.crop_scale, config.crop_ratio
    crop = A.RandomResizedCrop((size, size), scale, ratio, area_for_downscale="image")
    *strengths, hue = config.jitter
    ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    kernel = (2 * policies.blur_radius(size) + 1,) * 2
    return [
        *_rotation(config),
        crop,
        A.HorizontalFlip(p=config.flip),
        A.ColorJitter(*ranges, (-hue, hue), p=config.jitter_probability),
        A.ToGray(p=config.grayscale_probability),
        A.GaussianBlur(kernel, policies.BLUR_SIGMA, p=blur),
        A.Solarize(p=solarize),
    ]


def _strong(config: AugmentConfig, size: int, mean: Mean) -> list[A.BasicTransform]:
    limit = policies.cutout_limit(config, size)
    hole = [_Cutout(limit, tuple(round(255 * level) for level in mean))] if limit else []
    crop = A.RandomCrop(size, size)
    return [_fit(size), A.HorizontalFlip(p=config.flip), crop, _StrongOps(config.strong_ops), *hole]


def _fit(size: int) -> A.BasicTransform:
    return A.SmallestMaxSize(size, area_for_downscale="image")


def _rotation(config: AugmentConfig) -> list[A.BasicTransform]:
    if config.rotate == 0:
        return []
    return [A.Rotate((-config.rotate, config.rotate), border_mode=_REPLICATE, p=1.0)]


class _StrongOps(A.ImageOnlyTransform):
    """`count` operations drawn with replacement, magnitudes uniform, always applied."""

    def __init__(self, count: int):
        super().__init__(p=1.0)
        self.count = count

    def get_params(self) -> dict[str, Any]:
        """Draw the names and magnitudes for one image."""
        names = self.py_random.choices(list(STRONG_OPS), k=self.count)
        return {"drawn": [(name, self.py_random.uniform(*STRONG_OPS[name])) for name in names]}

    def apply(self, img: np.ndarray, drawn: list[tuple[str, float]], **_: Any) -> np.ndarray:
        """Apply them to an image uint8 [H,W,3]."""
        for name, magnitude in drawn:
            img = apply_op(name, img, magnitude)
        return img


class _Cutout(A.ImageOnlyTransform):
    """One square about a random pixel, clipped at the borders (DeVries and Taylor, 2017)."""

    def __init__(self, limit: int, fill: tuple[int, ...]):
        super().__init__(p=1.0)
        self.limit, self.fill = limit, fill

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw (top, bottom, left, right) for one image."""
        side = self.py_random.randint(1, self.limit)
        top, left = (self.py_random.randrange(n) - side // 2 for n in params["shape"][:2])
        return {"hole": (max(0, top), top + side, max(0, left), left + side)}

    def apply(self, img: np.ndarray, hole: tuple[int, int, int, int], **_: Any) -> np.ndarray:
        """Fill the hole in a copy of an image uint8 [H,W,3]."""
        top, bottom, left, right = hole
        img = img.copy()
        img[top:bottom, left:right] = self.fill
        return img


def apply_op(name: str, image: np.ndarray, magnitude: float) -> np.ndarray:
    """One of STRONG_OPS at one magnitude, by PIL, on an image uint8 [H,W,3].

    The magnitude is an angle in degrees (Rotate), a fraction of the side (shears, translations),
    a threshold (Solarize), a number of bits (Posterize) or a factor (the enhance operations).
    """
    picture = Image.fromarray(image)
    return np.asarray(_transform(name, picture, magnitude))


def _transform(name: str, picture: Image.Image, magnitude: float) -> Image.Image:
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(picture).enhance(magnitude)
    width, height = picture.size
    matrices = {
        "ShearX": (1, magnitude, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, magnitude, 1, 0),
        "TranslateX": (1, 0, magnitude * width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, magnitude * height),
    }
    if name in matrices:
        return picture.transform(picture.size, Image.Transform.AFFINE, matrices[name])
    others: dict[str, Callable[[], Image.Image]] = {
        "Identity": lambda: picture,
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Rotate": lambda: picture.rotate(magnitude),
        "Solarize": lambda: ImageOps.solarize(picture, magnitude),  # type: ignore[arg-type]
        "Posterize": lambda: ImageOps.posterize(picture, int(magnitude)),
    }
    return others[name]()
