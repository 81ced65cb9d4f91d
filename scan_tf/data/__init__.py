"""Images in: one file per data set in `sets/`, an `ImageSet` comes out."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "ImageSet": "image_set",
        "available": "sources",
        "from_array": "arrays",
        "load": "sources",
    },
)
