"""A run that somebody looks at: what the page asks for, and what it changes, one at a time."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from scan_tf import lazy
from scan_tf.errors import ConfigError, StageError
from scan_tf.explorer import findings
from scan_tf.explorer.corrections import Corrections
from scan_tf.explorer.evaluated import Evaluated
from scan_tf.explorer.findings import Findings
from scan_tf.explorer.journal import FILE, Journal
from scan_tf.explorer.proposal import Proposal, propose
from scan_tf.pipeline import corrected, names
from scan_tf.pipeline.run_dir import Run

FOLDER = "explore"
# What a search gives at most, and images that a proposal names.
MOST_NEAR = MOST_SHOWN = 2000


class Stale(Exception):
    """A write by a page that has not seen the last one."""


class Session:
    """A run that is looked at. Its methods may be called by many threads.

    Args:
        run: an evaluated run.

    Attributes:
        images: what the run has found of its images.
        notes: what a user should know of how it was found, in words.
        key: of this session, which no other has.

    Raises:
        StageError: it was not evaluated, a file of it is damaged, or another process is at work.
    """

    def __init__(self, run: Run):
        self.run, self.key = run, secrets.token_hex(4)
        self._lock = threading.RLock()
        run.claim()
        self.images = Evaluated(run)
        self.journal = Journal(run.root / FOLDER / FILE, self.images.what())
        self.notes = [*self.journal.notes]
        self._findings: Findings | None = None
        self._proposal: Proposal | None = None
        try:
            self.corrections = self._replayed()
            self._follow()
            self._take_names()
        except BaseException:
            self.journal.close()
            raise

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.images.paths)

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            self.journal.close()

    def state(self) -> dict[str, Any]:
        """What the page shows beside the images, JSON-able."""
        with self._lock:
            shown, corrections = self._shown(), self.corrections
            state = corrections.state
            count = max(state.groups) + 1
            sizes = np.bincount(shown.group, minlength=count)
            said = np.bincount(shown.group[shown.mark == findings.LABELLED], minlength=count)
            sure = np.bincount(shown.group, shown.confidence, count) / np.maximum(sizes, 1)
            return {
                "seq": self.journal.seq,
                "session": self.key,
                "run": self.images.name,
                "images": self.num_images,
                "groups": [
                    {
                        "id": group,
                        "name": state.names.get(group, ""),
                        "size": int(sizes[group]),
                        "said": int(said[group]),
                        "sure": round(float(sure[group]), 4),
                    }
                    for group in state.groups
                ],
                "accepted": self.images.classifier is not None,
                "pending": corrections.pending,
                "undo": corrections.undoes,
                "redo": corrections.redoes,
                "notes": self.notes,
                "colours": self.images.colours,
                "hasDistance": self.images.found.distance is not None,
                "exported": self.run.record("export").is_done,
                "root": str(self.run.root),
            }

    def packed(self) -> bytes:
        """What changes of all images, see `Findings.packed`."""
        with self._lock:
            return self._shown().packed(self.images.found.distance)

    def facts(self, row: int) -> dict[str, Any]:
        """What is known of an image."""
        with self._lock:
            shown = self._shown()
            # A name that is no UTF-8 cannot go into JSON.
            path = self.images.paths[row].encode("utf-8", "backslashreplace").decode()
            return {
                "row": row,
                "path": path,
                "group": int(shown.group[row]),
                "second": int(shown.second[row]),
                "confidence": round(float(shown.confidence[row]), 4),
                "mark": int(shown.mark[row]),
                "class": self.images.label(row),
            }

    def near(self, rows: list[int], count: int) -> dict[str, Any]:
        """The images most like some, see `findings.near`."""
        best, cosine = findings.near(self.images.directions, rows, min(count, MOST_NEAR))
        return {"rows": best.tolist(), "cosine": [round(float(c), 4) for c in cosine]}

    def act(self, seq: int, action: Mapping[str, Any]) -> dict[str, Any]:
        """Check an action, save it, and return the state that it leads to.

        Args:
            seq: the number of the last entry that the page knows.
            action: what to do; see `corrections`. A split needs no rows, which are found here.

        Raises:
            Stale: there are entries that the page does not know.
            ConfigError: it cannot be done; nothing is saved.
            StageError: it could not be saved.
        """
        with self._lock:
            self._refuse_stale(seq)
            if action.get("do") in ("accept", "discard"):
                raise ConfigError(f"{action['do']}: has an address of its own.")
            if action.get("do") == "split":
                action = {**action, "rows": self._half(action.get("group"))}
            self._save(self.corrections.checked(action))
            if action["do"] in ("name", "merge", "undo", "redo"):
                self._give_names()
            return self.state()

    def propose(self, seq: int) -> dict[str, Any]:
        """Fit a classifier that heeds the corrections, and tell what it would change.

        With names alone there is none, and `changed` is None.

        Raises:
            Stale: as of `act`.
            ConfigError: there is nothing to apply.
        """
        with self._lock:
            self._refuse_stale(seq)
            state, shown, images = self.corrections.state, self._shown(), self.images
            if not self.corrections.teaches:
                if not state.names:
                    raise ConfigError("apply: nothing was corrected or named yet.")
                if images.classifier is not None:
                    raise ConfigError("apply: all corrections were undone. Discard does the rest.")
                return {"changed": None, "rows": [], "counts": []}
            self._proposal = propose(
                images.found.features,
                images.own,
                state,
                shown,
                split=images.split,
                distance=images.found.distance,
                doubt=images.doubt,
                seq=seq,
            )
            return self._proposal.told(shown, MOST_SHOWN)

    def accept(self, seq: int) -> dict[str, Any]:
        """Have the last proposal take the place of the clustering; with names alone, bring them in.

        Raises:
            Stale: as of `act`.
            ConfigError: nothing was proposed of these corrections.
            MissingDataError: the images are not there, which the report shows.
        """
        with self._lock:
            self._refuse_stale(seq)
            proposal, given = self._proposal, self.corrections.state.names
            if not self.corrections.teaches:
                lazy.load_tensorflow()
                from scan_tf.pipeline import renaming

                renaming.rename(self.run, {})
                return self.state()
            if proposal is None or proposal.classifier.facts["seq"] != seq:
                raise ConfigError("accept: these corrections were not looked at; apply them first.")
            lazy.load_tensorflow()
            from scan_tf.pipeline import correcting

            groups = proposal.classifier.groups
            listed = {c: given[group] for c, group in enumerate(groups) if group in given}
            correcting.accept(self.run, proposal.classifier, listed)
            return self._reread()

    def discard(self, seq: int) -> dict[str, Any]:
        """Have the run's own clustering hold again; the corrections stay.

        Raises:
            Stale: as of `act`.
            ConfigError: no classifier was accepted.
            MissingDataError: the images are not there, which the report shows.
        """
        with self._lock:
            self._refuse_stale(seq)
            if self.images.classifier is None:
                raise ConfigError("discard: no corrected classifier was accepted.")
            lazy.load_tensorflow()
            from scan_tf.pipeline import correcting

            state, own = self.corrections.state, range(self.images.own.shape[1])
            listed = {c: state.names[c] for c in own if c in state.groups and c in state.names}
            correcting.discard(self.run, listed)
            return self._reread()

    def _replayed(self) -> Corrections:
        """The corrections of the journal. Raises StageError where they cannot be."""
        path = self.journal.path
        try:
            num_own = self.images.own.shape[1]
            found = Corrections(self.num_images, num_own, self.journal.entries)
        except (ConfigError, KeyError, IndexError) as error:
            raise StageError(
                f"{path}: holds what cannot be ({str(error).rstrip('.')}). Take it from a copy, or "
                "move it away to begin without corrections."
            ) from error
        if not found.knows(self.images.columns):
            root = self.run.root
            raise StageError(
                f"{root / corrected.FOLDER}: is of another journal than {path}. Put that back; or "
                f"remove the folder, and: scan-tf evaluate --run-dir {root} --redo evaluate"
            )
        return found

    def _reread(self) -> dict[str, Any]:
        """Take in an evaluation that was written again."""
        self.images.reread()
        self._proposal = self._findings = None
        self._follow()
        return self.state()

    def _follow(self) -> None:
        """Note in the journal which classifier holds, where it does not say so yet."""
        classifier = self.images.classifier
        held = None if classifier is None else classifier.digest
        if held != self.corrections.accepted:
            entry = {"do": "discard"} if held is None else {"do": "accept", "digest": held}
            self._save(self.corrections.checked(entry))

    def _refuse_stale(self, seq: int) -> None:
        if seq != self.journal.seq:
            raise Stale

    def _save(self, entry: Mapping[str, Any]) -> None:
        number = self.journal.append(entry)
        self.corrections.add({"seq": number, **entry})
        self._findings = None

    def _half(self, group: object) -> list[int]:
        """The smaller half of a group."""
        members = np.flatnonzero(self._shown().group == group)
        if len(members) < 2:
            raise ConfigError(
                f"split: expected a cluster of two images at least, got {len(members)}."
            )
        rows: list[int] = members[findings.halves(self.images.directions[members])].tolist()
        return rows

    def _shown(self) -> Findings:
        if self._findings is None:
            columns = np.array(self.images.columns, np.int32)
            probs = self.images.found.probs
            self._findings = findings.find(self.corrections.state, probs, columns)
        return self._findings

    def _take_names(self) -> None:
        """Take in the names that were given elsewhere, by `scan-tf name`."""
        there, state = names.read(self.run), self.corrections.state
        for column, group in enumerate(self.images.columns):
            name = there.get(column, "")
            if name and group in state.groups and state.names.get(group, "") != name:
                action = {"do": "name", "group": group, "name": name}
                self._save(self.corrections.checked(action) | {"there": True})

    def _give_names(self) -> None:
        """Write the names of those clusters of the classifier that are still there."""
        state = self.corrections.state
        given = {
            column: state.names[group]
            for column, group in enumerate(self.images.columns)
            if group in state.groups and group in state.names
        }
        if given != names.read(self.run):
            names.write(self.run, given)
