"""The networks, and their weights under names: ours and PyTorch's."""

from typing import TYPE_CHECKING

from scan_tf import lazy

if TYPE_CHECKING:
    from scan_tf.models.backbone import Backbone as Backbone
    from scan_tf.models.backbone import build as build
    from scan_tf.models.cosine_heads import CosineHeads as CosineHeads
    from scan_tf.models.frozen import Frozen as Frozen
    from scan_tf.models.heads import MLP as MLP
    from scan_tf.models.heads import ClusterHeads as ClusterHeads
    from scan_tf.models.heads import ProjectionHead as ProjectionHead
    from scan_tf.models.pretrained import load_pretrained as load_pretrained
    from scan_tf.models.resnet import ResNet as ResNet
    from scan_tf.models.weights import load_weights as load_weights
    from scan_tf.models.weights import named_variables as named_variables
    from scan_tf.models.weights import save_weights as save_weights

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Backbone": "backbone",
        "ClusterHeads": "heads",
        "CosineHeads": "cosine_heads",
        "Frozen": "frozen",
        "MLP": "heads",
        "ProjectionHead": "heads",
        "ResNet": "resnet",
        "build": "backbone",
        "named_variables": "weights",
        "load_pretrained": "pretrained",
        "load_weights": "weights",
        "save_weights": "weights",
    },
)
