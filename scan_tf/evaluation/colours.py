"""The colours of classes and clusters, in pictures, reports and the explorer alike."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from scan_tf.evaluation import metrics

BLUE, RED = "#0072B2", "#D55E00"
# Of clusters that stand for no class.
_NO_CLASS = (0.62, 0.62, 0.62)
# Okabe and Ito's seven colours (2008), and three that the colour-blind tell from them.
_DISTINCT = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", RED, "#F0E442", "#332288",
             "#882255", "#C4C4C4")  # fmt: skip


def palette(count: int) -> np.ndarray:
    """`count` colours, f32 [count,3] in 0..1, for the colour-blind too; above 10 evenly spaced."""
    if count <= len(_DISTINCT):
        return np.array([_rgb(c) for c in _DISTINCT[:count]], np.float32).reshape(count, 3)
    # Neighbouring hues differ in lightness as well.
    hues = [(i / count, (0.36, 0.66, 0.5)[i % 3], 0.8) for i in range(count)]
    return np.array([colorsys.hls_to_rgb(*hue) for hue in hues], np.float32)


def matched_palette(mapping: Sequence[int | None], num_classes: int) -> np.ndarray:
    """Colours of C clusters, f32 [C,3]: those that `palette(num_classes)` gives their classes.

    Args:
        mapping: cluster -> class, as `metrics.match` gives it; None: grey.
        num_classes: how many there are.

    Returns:
        Several clusters of one class have lighter and lighter shades of its colour.
    """
    classes = palette(num_classes)
    colours = np.empty((len(mapping), 3), np.float32)
    for cluster, of in enumerate(mapping):
        if of is None:
            colours[cluster] = _NO_CLASS
            continue
        sharing = [c for c, other in enumerate(mapping) if other == of]
        lighter = 0.6 * sharing.index(cluster) / len(sharing)
        colours[cluster] = classes[of] + lighter * (1 - classes[of])
    return colours


def of_clusters(
    clusters: np.ndarray,
    num_clusters: int,
    labels: np.ndarray | None = None,
    num_classes: int = 0,
) -> np.ndarray:
    """Colours of C clusters, float32 [C,3]: those of their classes where labels are known.

    Args:
        clusters: int [N], of the images.
        num_clusters: C.
        labels: int [N], their true classes; None: unknown.
        num_classes: how many classes there are.
    """
    if labels is None:
        return palette(num_clusters)
    mapping = metrics.match(labels, clusters, num_clusters, num_classes)[0]
    return matched_palette(mapping, num_classes)


def as_hex(colour: Sequence[float] | np.ndarray) -> str:
    """Red, green and blue in 0..1 as `#rrggbb`."""
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in colour)


def _rgb(text: str) -> tuple[float, ...]:
    """Red, green and blue in 0..1 of `#rrggbb`."""
    return tuple(int(text[at : at + 2], 16) / 255 for at in (1, 3, 5))
