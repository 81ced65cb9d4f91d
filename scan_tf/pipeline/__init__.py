"""One run directory: its record, and the stages."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Run": "run_dir",
        "STAGES": "stage",
        "predict": "prediction",
        "run": "stages",
        "run_stage": "stages",
    },
)
