"""The networks, and their weights under names: ours and PyTorch's."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "ClusterHeads": "heads",
        "ProjectionHead": "heads",
        "ResNet": "resnet",
        "build": "resnet",
        "load_weights": "weights",
        "save_weights": "weights",
    },
)
