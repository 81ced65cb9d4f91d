"""What was tried and what came of it, as the table of docs/reliability.md."""

from __future__ import annotations

import collections
import json
from pathlib import Path


def table(path: Path) -> str:
    """Fault, commit, times tried and how often it went wrong, from the lines of `--results`."""
    tried: collections.Counter[tuple[str, str, str]] = collections.Counter()
    wrong: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key = (row["fault"], row["where"], row["commit"])
        tried[key] += row["tried"]
        wrong[key] += len(row["wrong"])
    rows = ["| fault | where | commit | tried | wrong |", "|---|---|---|---:|---:|"]
    for key, count in sorted(tried.items()):
        fault, where, commit = key
        rows.append(f"| {fault} | {where} | `{commit}` | {count} | {wrong[key]} |")
    return "\n".join(rows)
