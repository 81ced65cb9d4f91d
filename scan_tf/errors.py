"""The errors that users see. Each carries the exit code with which the programs end."""

from __future__ import annotations

# Exit code of a run that ended with its time (EX_TEMPFAIL of sysexits.h: try again).
TO_BE_CONTINUED = 75


class ScanError(Exception):
    """Base of all errors of this package that tell a user what to do next."""

    exit_code = 2


class ConfigError(ScanError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(ScanError, ValueError):
    """Images or arrays that cannot be used as they are."""


class MissingDataError(ScanError):
    """A data set that is not on this machine; the message names the command that prepares it."""

    exit_code = 3


class StageError(ScanError):
    """A stage that cannot run: its input is missing, or the run directory is another config's."""


class TrainingError(ScanError):
    """Training that went wrong, or that there was nothing to learn from."""


class NothingLearned(TrainingError):
    """A stage of which no step could change anything, such as self-labelling without labels."""


class WithoutSelfLabel(ScanError):
    """A run that is done but for the self-labelling, which could learn nothing."""

    exit_code = 4


class Diverged(TrainingError):
    """A loss or variables that are not finite; what was saved before is good."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM: the same command goes on from what was saved.

    No `Exception`, so that nothing takes it for an error of its own: no reader of files calls them
    damaged, no sweep counts a failed point.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number
