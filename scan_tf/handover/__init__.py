"""What others take over: rows in files, and images in folders by their clusters."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "plan": "sorting",
        "sort": "sorting",
        "undo": "sorting",
        "writing": "row_files",
    },
)
