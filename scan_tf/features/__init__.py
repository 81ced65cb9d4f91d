"""What a network says of a whole data set, and who is near whom."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Neighbors": "neighbors",
        "embed": "embedding",
        "exact": "search",
        "mine": "neighbors",
    },
)
