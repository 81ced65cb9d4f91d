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

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scan_tf.config import Config

__version__ = "0.1.0"

# Public name -> where it is defined.
_EXPORTS = {
    "Config": "scan_tf.config:Config",
    "ImageSet": "scan_tf.data.image_set:ImageSet",
    "ResNet": "scan_tf.models.resnet:ResNet",
    "ScanError": "scan_tf.errors:ScanError",
    "cluster_scores": "scan_tf.evaluation.metrics:cluster_scores",
    "load_data": "scan_tf.data.sources:load",
    "mine": "scan_tf.features.neighbors:mine",
    "nt_xent": "scan_tf.methods.losses:nt_xent",
    "predict": "scan_tf.pipeline.prediction:predict",
    "run": "scan_tf.pipeline.stages:run",
    "scan_loss": "scan_tf.methods.losses:scan_loss",
}

__all__ = ["__version__", "load_config", *_EXPORTS]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read an experiment's YAML file; `overrides` are strings such as `scan.epochs=20`.

    Raises:
        ConfigError: the file is missing or no YAML, or a setting is bad.
    """
    from scan_tf import config
    from scan_tf.methods import catalog

    return config.load(path, overrides, pretext_config=catalog.config_class)


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'scan_tf' has no attribute '{name}'")
    module, _, attribute = _EXPORTS[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
