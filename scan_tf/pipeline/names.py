"""The names that clusters were given: `names.yaml` of the run directory.

The number of a cluster means nothing to another clustering, so the file also says which weights
the names were given to; those of other weights are left out, with a warning. Everything that shows
a name has it from here: `scan-tf name` brings it into what has been written before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from scan_tf.errors import ConfigError, DataError
from scan_tf.evaluation.text import cell
from scan_tf.pipeline import corrected
from scan_tf.pipeline.run_dir import Run
from scan_tf.settings import reading
from scan_tf.settings.schema import shorten
from scan_tf.storage import files

FILE = "names.yaml"
# Characters of a name; it has to fit into a line and a file name.
_LONGEST = 100
_MAX_DIGITS = 20
_HEAD = "# Names of clusters. After a change by hand: scan-tf name RUN\n"
_log = logging.getLogger(__name__)


def read(run: Run) -> dict[int, str]:
    """Cluster -> name, of the last clustering; only clusters that have one.

    Raises:
        StageError: nothing was clustered.
        DataError: the file is damaged.
    """
    path = run.root / FILE
    if not path.exists():
        return {}
    try:
        tree = reading.read_yaml(path)
        found = {_number(key): checked(value) for key, value in (tree.get("names") or {}).items()}
        weights = dict(tree["weights"])
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: damaged ({error!r}). Mend it, or remove it and give the names anew."
        ) from error
    if weights != weights_of(run):
        _log.warning(
            "%s: left out %s, which were given to the clusters of other weights.",
            *(path, ", ".join(f"{c}={name}" for c, name in found.items()) or "no names"),
        )
        return {}
    return found


def write(run: Run, names: Mapping[int, str]) -> None:
    """Write the names of the last clustering; raises as `read`."""
    tree = {"weights": weights_of(run), "names": dict(sorted(names.items()))}
    text = _HEAD + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    files.write_text(run.root / FILE, text)


def listed(names: Mapping[int, str], count: int) -> list[str]:
    """The names of all clusters, "" for those without one."""
    return [names.get(cluster, "") for cluster in range(count)]


def parse(texts: Iterable[str], count: int) -> dict[int, str]:
    """Cluster -> name of texts such as `3=cat`; the name "" takes one away.

    Raises:
        ConfigError: no such cluster among `count`, or no name.
    """
    found: dict[int, str] = {}
    for text in texts:
        number, equals, name = text.partition("=")
        if not equals or not number.strip().isdecimal():
            raise ConfigError(f"'{shorten(text)}': expected CLUSTER=NAME, such as 3=cat.")
        # Python makes no number of thousands of digits.
        cluster = int(number) if len(number) < _MAX_DIGITS else count
        if cluster >= count:
            got = shorten(number.strip(), 20)
            raise ConfigError(
                f"'{shorten(text)}': expected a cluster of 0 to {count - 1}, got {got}."
            )
        if cluster in found:
            raise ConfigError(f"'{text}': the cluster {cluster} is named twice.")
        found[cluster] = checked(name) if name.strip() else ""
    return found


def checked(name: Any) -> str:
    """A name without blanks around it. Raises ConfigError for what cannot be one."""
    text = name.strip() if isinstance(name, str) else ""
    if text != cell(text):
        raise ConfigError(f"a cluster's name: {name!r} would be a formula to a spreadsheet.")
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise ConfigError(
            f"a cluster's name: expected 1 to {_LONGEST} characters in one line, got {name!r}."
        )
    return text


def weights_of(run: Run) -> dict[str, str]:
    """What tells the last clustering from others: its stage, and the SHA-256 of its weights.

    Where it was corrected, of the corrected classifier; see `corrected`.
    """
    found = corrected.load(run)
    if found is not None:
        return {"stage": corrected.NAME, "sha256": found.digest}
    return corrected.own_weights(run)


def _number(key: Any) -> int:
    if not isinstance(key, int) or isinstance(key, bool) or key < 0:
        raise ValueError(f"expected the number of a cluster, got {key!r}")
    return key
