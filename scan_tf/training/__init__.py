"""How it is learned: batches, optimiser, the one loop, exact resume."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Loader": "loader",
        "Order": "loader",
        "Trainer": "loop",
    },
)
