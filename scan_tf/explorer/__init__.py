"""A finished run in the browser: look, name, correct, refit."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__, {"Journal": "journal", "Session": "session", "serve": "serving"}
)
