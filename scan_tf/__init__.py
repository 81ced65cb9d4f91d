"""SCAN, "Learning to Classify Images without Labels" (ECCV 2020), for TensorFlow and Keras.

The pipeline; every stage reads and writes one run directory (`scan_tf.pipeline.stages`):

    images u8 [N,S,S,3]
      |
      v
    pretext      backbone + projection head, by a pretext task (SimCLR, RotNet, ...)
      |            features f32 [N,P], unit rows
      v
    neighbors    the K nearest neighbours of every image, int32 [N,K+1]; column 0 is the image
      |
      v
    scan         image and neighbour into the same cluster, all clusters in use; H heads,
      |            logits f32 [H,B,C]; the best head is chosen without labels
      v
    selflabel    confident predictions become targets of strongly augmented images
      |
      v
    evaluate     Hungarian matching; ACC, NMI, ARI; pictures        (labels are read only here)
      |
      v
    export       SavedModel: images u8 [B,S,S,3] -> cluster probabilities f32 [B,C]

Shape letters, the same in every docstring:

    B  images of a batch           N  images of a set        K  neighbours of an image
    C  clusters                    H  cluster heads          S  side of a square image, pixels
    D  features of the backbone    P  dimensions of the projection

`import scan_tf` is cheap: the names below are imported when they are first used, and only then
is TensorFlow loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from scan_tf import lazy

if TYPE_CHECKING:
    from scan_tf.config import Config

__version__ = "0.1.0"

_PUBLIC = {
    "Config": "config",
    "ImageSet": "data.image_set",
    "ResNet": "models.resnet",
    "ScanError": "errors",
    "cluster_scores": "evaluation.metrics",
    "load_data": "data.sources:load",
    "mine": "features.neighbors",
    "nt_xent": "methods.losses",
    "predict": "pipeline.prediction",
    "run": "pipeline.stages",
    "scan_loss": "methods.losses",
}
__getattr__, __dir__, _names = lazy.names(__name__, _PUBLIC)
__all__ = ["__version__", "load_config", *_names]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read an experiment's YAML file; `overrides` are strings such as `scan.epochs=20`.

    Raises:
        ConfigError: the file is missing or no YAML, or a setting is bad.
    """
    from scan_tf.pipeline import settings

    return settings.load(path, overrides)
