"""How good features and clusterings are: arrays in, scores and pictures out."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "cluster_scores": "metrics",
        "knn_accuracy": "knn",
        "linear_probe": "probes",
        "write_report": "report:write",
    },
)
