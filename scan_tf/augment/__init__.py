"""Views: what an image becomes before it is looked at, on the device and on the host."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Policy": "policies",
        "make": "policies",
    },
)
