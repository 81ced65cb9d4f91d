"""Many runs, and runs on many machines."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "pack": "packs",
        "publish": "published_results:add",
        "repeat": "sweep",
        "unpack": "packs",
    },
)
