"""What a journal means: the state that follows from its entries, and which entry may come next.

Groups are the clusters as a user sees them. The first C are the clusters of the run, by their
numbers; one that is made later has a number that was never given before. A group that was merged
stands for the one that it was merged into, and one that was taken back for the one that it came
from, so that whatever number an image or a classifier has leads to a group that is there.

An image that a user has put into a group is labelled. What a split says of an image is softer: it
holds until a classifier that was fitted with it is accepted.

The entries, by `do`: name (group, name), merge (groups, into), split (group, new, rows), make (new,
rows, name), move (rows, to), mark (rows, as), undo, redo, accept (digest), discard. A name that was
given elsewhere, which everything has already, is marked by `there`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scan_tf.errors import ConfigError
from scan_tf.explorer.wording import describe
from scan_tf.pipeline import names

# Of an image, in place of the number of a group.
UNLABELLED, NONE, UNSURE = -1, -2, -3
_MARKS = {"": UNLABELLED, "none": NONE, "unsure": UNSURE}
_TURNS = ("undo", "redo")
_BOUNDS = ("accept", "discard")


@dataclasses.dataclass(eq=False)
class State:
    """What follows from a journal.

    Attributes:
        labels: int32 [N], the group that a user has put the image into, as it was called then, or
            UNLABELLED, NONE or UNSURE.
        soft: int32 [N], the group that a split has put it into since the last classifier was
            accepted, or UNLABELLED.
        soft_ever: int32 [N], as `soft`, whatever was accepted meanwhile.
        merged: group -> the one that it was merged into.
        made: groups that are there beside those of the run.
        names: group -> name.
        origin: group -> the one that it came from, of all that were ever made.
        num_own: C, the number of the run's own clusters.
    """

    labels: np.ndarray
    soft: np.ndarray
    soft_ever: np.ndarray
    merged: dict[int, int]
    made: set[int]
    names: dict[int, str]
    origin: dict[int, int]
    num_own: int

    def resolve(self, group: int) -> int:
        """The group that is there which a number stands for."""
        while True:
            if group in self.merged:
                group = self.merged[group]
            elif group >= self.num_own and group not in self.made:
                group = self.origin[group]
            else:
                return group

    def resolved(self, groups: np.ndarray) -> np.ndarray:
        """`resolve` of every one, int32; negative numbers stay."""
        count = max([self.num_own, *(g + 1 for g in self.origin)])
        table = np.array([self.resolve(g) if self._known(g) else 0 for g in range(count)], np.int32)
        return np.where(groups < 0, groups, table[np.maximum(groups, 0)]).astype(np.int32)

    @property
    def groups(self) -> list[int]:
        """Those that are there, in the order of their numbers."""
        own = [g for g in range(self.num_own) if g not in self.merged]
        return own + sorted(g for g in self.made if g not in self.merged)

    def shown(self, predicted: np.ndarray) -> np.ndarray:
        """The group of every image, int32 [N].

        Args:
            predicted: int32 [N], groups as the classifier has them.
        """
        found = np.where(self.soft >= 0, self.soft, predicted)
        return self.resolved(np.where(self.labels >= 0, self.labels, found))

    def _known(self, group: int) -> bool:
        return group < self.num_own or group in self.origin


class Corrections:
    """The entries of a journal, and the state that they lead to.

    Args:
        num_images: N.
        num_own: C, the clusters of the run.
        entries: of the journal.

    Raises:
        ConfigError: an entry is not one that could follow those before it.
    """

    def __init__(self, num_images: int, num_own: int, entries: Iterable[Mapping[str, Any]] = ()):
        self.num_images, self.num_own = num_images, num_own
        self._done: list[Mapping[str, Any]] = []
        self._undone: list[Mapping[str, Any]] = []
        self._bounds: list[Mapping[str, Any]] = []
        self._origin: dict[int, int] = {}
        # What groups there were before each entry of `_done`.
        self._before: list[tuple[dict[int, int], set[int], dict[int, str]]] = []
        self.state = self._start()
        for entry in entries:
            self.checked(entry, new=entry.get("new"))
            self._note(entry)
        self._replay()

    @property
    def undoes(self) -> str | None:
        """What undo takes back, in words; None: nothing."""
        return describe(self._done[-1], self.state.names) if self._done else None

    @property
    def redoes(self) -> str | None:
        """What redo brings again, in words; None: nothing."""
        return describe(self._undone[-1], self.state.names) if self._undone else None

    @property
    def accepted(self) -> str | None:
        """The digest of the classifier that was accepted last; None: the run's own one holds."""
        last = self._bounds[-1] if self._bounds else {"do": "discard"}
        return last["digest"] if last["do"] == "accept" else None

    @property
    def pending(self) -> int:
        """How many corrections there are since a classifier was accepted, those undone apart.

        Names that were given elsewhere are none.
        """
        since = self._bounds[-1]["seq"] if self.accepted else 0
        return sum(entry["seq"] > since and not entry.get("there") for entry in self._done)

    @property
    def next_group(self) -> int:
        """The number of the next group that is made."""
        return max([self.num_own - 1, *self._origin]) + 1

    def knows(self, groups: Iterable[int]) -> bool:
        """Whether all of them are groups that there are or have been."""
        return all(group < self.num_own or group in self._origin for group in groups)

    @property
    def teaches(self) -> bool:
        """Whether anything but names was changed."""
        return any(entry["do"] != "name" for entry in self._done)

    def checked(self, action: Mapping[str, Any], new: int | None = None) -> dict[str, Any]:
        """The entry that an action becomes.

        Args:
            action: `do` and what belongs to it.
            new: the number of a group that it makes; None: the next one.

        Raises:
            ConfigError: it cannot be done now; the message says why.
        """
        do = action.get("do")
        if do == "undo" and not self._done:
            raise ConfigError("undo: there is nothing to take back.")
        if do == "redo" and not self._undone:
            raise ConfigError("redo: there is nothing to bring again.")
        if do in (*_TURNS, "discard"):
            return {"do": do}
        if do == "accept":
            return {"do": do, "digest": _text(action, "digest")}
        if do == "name":
            return {"do": do, "group": self._group(action, "group"), "name": _name(action)}
        if do == "merge":
            return {"do": do, **self._merge(action)}
        if do == "move":
            return {"do": do, "rows": self._rows(action), "to": self._group(action, "to")}
        if do == "mark":
            if action.get("as") not in _MARKS:
                raise ConfigError(f"mark: expected none, unsure or '', got {action.get('as')!r}.")
            return {"do": do, "rows": self._rows(action), "as": action["as"]}
        if do in ("split", "make"):
            number = self.next_group if new is None else new
            if isinstance(number, bool) or not isinstance(number, int) or number < self.next_group:
                raise ConfigError(f"{do}: {number!r} is no number for a new group.")
            found = {"do": do, "new": number, "rows": self._rows(action)}
            if do == "split":
                return found | {"group": self._group(action, "group")}
            return found | {"of": self._group(action, "of"), "name": _name(action)}
        raise ConfigError(f"{do!r}: unknown. Expected name, merge, split, make, move or mark.")

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take in an entry that `checked` gave, as the journal has it."""
        self._note(entry)
        if entry["do"] in (*_TURNS, *_BOUNDS):
            self._replay()
        else:
            _apply_rows(self.state, entry)

    def _note(self, entry: Mapping[str, Any]) -> None:
        """Put an entry where it belongs: what is done, what was undone, the bounds."""
        do, state = entry["do"], self.state
        if do == "undo":
            self._undone.append(self._done.pop())
            state.merged, state.made, state.names = self._before.pop()
        elif do in _BOUNDS:
            self._bounds.append(entry)
        else:
            if do == "redo":
                entry = self._undone.pop()
            else:
                self._undone.clear()
            if "new" in entry:
                self._origin[entry["new"]] = entry["group" if entry["do"] == "split" else "of"]
            self._done.append(entry)
            self._before.append(({**state.merged}, {*state.made}, {**state.names}))
            _apply_groups(state, entry)

    def _start(self) -> State:
        empty = np.full(self.num_images, UNLABELLED, np.int32)
        return State(empty, empty.copy(), empty.copy(), {}, set(), {}, self._origin, self.num_own)

    def _replay(self) -> None:
        """Fill the arrays of a state whose groups are right."""
        for array in (self.state.labels, self.state.soft, self.state.soft_ever):
            array[:] = UNLABELLED
        for entry in sorted([*self._done, *self._bounds], key=lambda entry: int(entry["seq"])):
            _apply_rows(self.state, entry)

    def _merge(self, action: Mapping[str, Any]) -> dict[str, Any]:
        found = action.get("groups")
        if not isinstance(found, list) or not found:
            raise ConfigError(f"merge: expected a list of groups, got {found!r}.")
        into = self._group(action, "into")
        groups = sorted({self._group({"group": g}, "group") for g in found} - {into})
        if not groups:
            raise ConfigError("merge: expected another group than the one to merge into.")
        return {"groups": groups, "into": into}

    def _group(self, action: Mapping[str, Any], key: str) -> int:
        group = action.get(key)
        if isinstance(group, bool) or not isinstance(group, int):
            raise ConfigError(f"{key}: expected the number of a cluster, got {group!r}.")
        if group not in self.state.groups:
            raise ConfigError(f"{key}: there is no cluster {group}.")
        return group

    def _rows(self, action: Mapping[str, Any]) -> list[int]:
        rows = action.get("rows")
        if not isinstance(rows, list) or not rows or len(rows) > self.num_images:
            raise ConfigError("rows: expected a list of images.")
        for row in rows:
            if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < self.num_images:
                raise ConfigError(f"rows: expected 0 to {self.num_images - 1}, got {row!r}.")
        return sorted(set(rows))


def _apply_groups(state: State, entry: Mapping[str, Any]) -> None:
    """Change the groups of a state by an entry that was checked."""
    do = entry["do"]
    if do == "name":
        state.names.pop(entry["group"], None)
        state.names |= {entry["group"]: entry["name"]} if entry["name"] else {}
    elif do == "merge":
        state.merged |= dict.fromkeys(entry["groups"], entry["into"])
        first = next((state.names[g] for g in entry["groups"] if g in state.names), None)
        if first is not None:
            state.names.setdefault(entry["into"], first)
    elif do in ("make", "split"):
        state.made.add(entry["new"])
        state.names |= {entry["new"]: entry["name"]} if entry.get("name") else {}


def _apply_rows(state: State, entry: Mapping[str, Any]) -> None:
    """Change what a state says of images."""
    do, rows = entry["do"], np.asarray(entry.get("rows", []), np.int64)
    if do == "move":
        state.labels[rows] = entry["to"]
    elif do == "mark":
        state.labels[rows] = _MARKS[entry["as"]]
    elif do == "make":
        state.labels[rows] = entry["new"]
    elif do == "split":
        labelled = state.labels[rows] >= 0
        state.labels[rows[labelled]] = entry["new"]
        state.soft[rows[~labelled]] = state.soft_ever[rows[~labelled]] = entry["new"]
    elif do == "accept":
        state.soft[:] = UNLABELLED
    elif do == "discard":
        state.soft[:] = state.soft_ever


def _text(action: Mapping[str, Any], key: str) -> str:
    value = action.get(key)
    if not isinstance(value, str):
        raise ConfigError(f"{key}: expected text, got {value!r}.")
    return value


def _name(action: Mapping[str, Any]) -> str:
    """The name in an action; "" for none."""
    text = _text({"name": action.get("name", "")}, "name").strip()
    return names.checked(text) if text else ""
