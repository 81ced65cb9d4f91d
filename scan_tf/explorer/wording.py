"""What an entry of the journal did, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe(entry: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """An entry of the journal in words; `names`: group -> name."""

    def name(group: int) -> str:
        known = names.get(group)
        return f"“{known}”" if known else f"cluster {group}"

    do, count = entry["do"], len(entry.get("rows", ()))
    images = f"{count:,} image{'' if count == 1 else 's'}"
    if do == "name":
        what = f"naming of cluster {entry['group']}"
        return f"{what} as “{entry['name']}”" if entry["name"] else f"{what} taken away"
    if do == "merge":
        return f"merge of {', '.join(map(name, entry['groups']))} into {name(entry['into'])}"
    if do == "split":
        return f"split of {name(entry['group'])}"
    if do == "make":
        return f"new cluster of {images}"
    if do == "move":
        return f"{images} to {name(entry['to'])}"
    marks = {"none": "marked as none of these", "unsure": "marked as not sure", "": "unmarked"}
    return f"{images} {marks[entry['as']]}"
