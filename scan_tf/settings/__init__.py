"""What a setting is, how settings are read, and those that every run has."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(__name__, {"Section": "schema", "setting": "schema"})
