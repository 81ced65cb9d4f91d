"""One run directory: its record, and the stages."""

from scan_tf import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Fitted": "fitting",
        "Run": "run_dir",
        "STAGES": "stage",
        "Scan": "estimator",
        "fit": "fitting",
        "predict": "prediction",
        "run": "stages",
        "run_stage": "stages",
    },
)
