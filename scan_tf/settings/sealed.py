"""A text with a checksum in its last line, by which damage is told from what was written.

The config copy of a run has one: a flipped bit can make another setting of a number.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

_LINE = "# sha256 of the lines above: "
_log = logging.getLogger(__name__)


def seal(text: str) -> str:
    """A YAML text with the checksum of its lines as a comment below them."""
    return f"{text}{_LINE}{_digest(text)}\n"


def warn_of_changes(path: Path) -> None:
    """Warn where a file is not as it was sealed; of one without a checksum nothing is known."""
    text, found, known = path.read_text(encoding="utf-8").rpartition(_LINE)
    if found and known.strip() != _digest(text):
        _log.warning(
            "%s: is not as the program wrote it. Where nobody has edited it, it is damaged: the "
            "settings of each stage are in status/ beside it.",
            path,
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
