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

from scan_tf import lazy

__version__ = "0.1.0"

_PUBLIC = {
    "Config": "config",
    "Fitted": "pipeline.fitting",
    "ImageSet": "data.image_set",
    "ResNet": "models.resnet",
    "Scan": "pipeline.estimator",
    "ScanError": "errors",
    "cluster_scores": "evaluation.metrics",
    "fit": "pipeline.fitting",
    "from_array": "data.arrays",
    "learn_features": "pipeline.steps",
    "load_config": "config:load",
    "load_data": "data.sources:load",
    "mine": "pipeline.steps",
    "nt_xent": "methods.losses",
    "predict": "pipeline.prediction",
    "run": "pipeline.stages",
    "scan_loss": "methods.losses",
    "self_label": "pipeline.steps",
    "train_heads": "pipeline.steps",
}
__getattr__, __dir__, _names = lazy.names(__name__, _PUBLIC)
__all__ = ["__version__", *_names]
