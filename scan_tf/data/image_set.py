"""What every data set becomes: the images of one split, in memory or read as they are needed."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import numpy as np

from scan_tf.errors import DataError

Split = Literal["pretext", "train", "test"]
SPLITS: tuple[Split, ...] = ("pretext", "train", "test")
# The mean and deviation of ImageNet, for sets that bring no statistics of their own.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Images(Protocol):
    """Pixels uint8 [N,S,S,3]: an array in memory, a mapped file, or what reads some at a time.

    No more than this is asked of them, so that a set need not fit into memory.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, S, S, 3)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Uint8."""

    def __len__(self) -> int:
        """The number of images, N."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Those at a slice or at the indices int [M], uint8 [M,S,S,3]; of an int, uint8 [S,S,3]."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one split of a data set.

    Attributes:
        name: the data set.
        split: "pretext", "train" or "test".
        images: uint8 [N, S, S, 3], in memory, memory-mapped, or read as `Images` says.
        labels: int64 [N] in 0..num_classes-1, or None. For evaluation only.
        class_names: the name of every label; empty where there are no labels.
        mean: per channel, of images scaled to 0..1.
        std: per channel, of images scaled to 0..1.
        paths: the file of every image, where the images came from files.
        skipped: files that could not be read and are not in `images`.
    """

    name: str
    split: Split
    images: Images
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    paths: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts fit together. Raises DataError."""
        images, count = self.images, len(self.images)
        square = len(images.shape) == 4 and images.shape[1] == images.shape[2]
        if images.dtype != np.uint8 or not square or images.shape[3] != 3:
            raise DataError(
                f"{self.name}: images must be uint8 [N, S, S, 3], "
                f"got {images.dtype} {list(images.shape)}."
            )
        for field, values in (("labels", self.labels), ("paths", self.paths)):
            if values is not None and len(values) != count:
                raise DataError(f"{self.name}: {len(values)} {field} for {count} images.")

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.images)

    @property
    def image_size(self) -> int:
        """The side of the images in pixels, S."""
        return int(self.images.shape[1])

    @property
    def num_classes(self) -> int | None:
        """The number of classes, or None where they are not known."""
        return len(self.class_names) or None

    def subset(self, indices: Any) -> ImageSet:
        """The images at `indices` (integers [M], or a mask bool [N]), in that order.

        Args:
            indices: integers [M], or a mask bool [N].
        """
        chosen = np.arange(len(self))[np.asarray(indices)]
        return dataclasses.replace(
            self,
            images=self.images[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            paths=None if self.paths is None else tuple(self.paths[i] for i in chosen),
        )
