"""What was tried and what came of it, as the table of docs/reliability.md."""

from __future__ import annotations

import collections
import json
from pathlib import Path

_AGAIN = "exit code 0, the same files, nothing left over"
# What is promised of each fault.
_PROMISED = {
    "SIGKILL": "the same command goes on",
    "SIGTERM": "ends with 143 within seconds; the same command goes on",
    "SIGINT": "ends with 130 within seconds; the same command goes on",
    "run to its end": "exit code 0, however often it was stopped",
    "the same bits as without faults": "weights, neighbours, metrics, features, clusters, report "
    "and SavedModel are equal; nothing is left over",
    "SIGKILL and the command again": _AGAIN,
    "SIGTERM and the command again": _AGAIN,
    "SIGINT and the command again": _AGAIN,
    "a bit flipped": "the same report, or told in a line",
    "full disk": "exit code 2 and a line with folder and size",
    "files limited": "exit code 2 and a line with folder and size",
    "the same command with room again": "exit code 0",
    "a disk that is only read": "what writes there is refused in a line, the rest works",
    "second writer": "refused with exit code 2, naming the first, which goes on",
    "clock set back": "exit code 0",
}


def table(path: Path) -> str:
    """Fault, times tried, where, promise, how often it was broken, commits; of `--results`."""
    tried: dict[str, collections.Counter[str]] = {}
    broken: collections.Counter[str] = collections.Counter()
    commits: dict[str, set[str]] = {}
    slowest_s = 0.0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        fault, where = row["fault"], row["where"].rpartition(": ")[2]
        tried.setdefault(fault, collections.Counter())[where] += row["tried"]
        broken[fault] += len(row["wrong"])
        commits.setdefault(fault, set()).add(f"`{row['commit']}`")
        slowest_s = max(slowest_s, row["slowest_s"])
    rows = [
        "| fault | tried | where | promised | broken | commits |",
        "|---|---:|---|---|---:|---|",
    ]
    order = [*_PROMISED, *sorted(tried.keys() - _PROMISED.keys())]
    for fault in filter(tried.__contains__, order):
        where = ", ".join(f"{place} {count}" for place, count in tried[fault].most_common())
        cells = [fault, str(tried[fault].total()), where, _PROMISED.get(fault, "")]
        cells += [str(broken[fault]), ", ".join(sorted(commits[fault]))]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", f"The slowest end after a signal took {slowest_s:.1f} s."])
