"""What is learned: views to look at and a loss to minimise, one file for each method."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Clustering": "task",
        "Pretext": "task",
        "SelfLabel": "task",
        "Task": "task",
        "View": "task",
        "available": "catalog",
        "confident_cross_entropy": "losses",
        "info_nce": "losses",
        "nt_xent": "losses",
        "rotation_cross_entropy": "losses",
        "scan_loss": "losses",
    },
)
