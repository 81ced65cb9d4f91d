"""Files and folders that are whole or not there, and who writes in them."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Writing": "writing",
    },
)
