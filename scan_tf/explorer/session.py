"""A run that somebody looks at: what the page asks for, and what it changes, one at a time."""

from __future__ import annotations

import functools
import hashlib
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.data.decoding import Limits, size_of
from scan_tf.data.image_set import ImageSet
from scan_tf.errors import ConfigError, StageError
from scan_tf.evaluation import assignments
from scan_tf.explorer import findings
from scan_tf.explorer.corrections import Corrections
from scan_tf.explorer.findings import Findings
from scan_tf.explorer.journal import FILE, Journal
from scan_tf.explorer.pictures import Pictures
from scan_tf.features.rows import unit
from scan_tf.pipeline import embeddings, names, reports, seen_images
from scan_tf.pipeline.run_dir import Run

FOLDER = "explore"
# What a search gives at most.
MOST_NEAR = 2000


class Stale(Exception):
    """A write by a page that has not seen the last one."""


class Session:
    """A run that is looked at. Its methods may be called by many threads.

    Args:
        run: an evaluated run.

    Attributes:
        notes: what a user should know of how it was found, in words.
        key: of this session, which no other has.

    Raises:
        StageError: it was not evaluated, a file of it is damaged, or another process is at work.
    """

    def __init__(self, run: Run):
        self.run, self.key = run, secrets.token_hex(4)
        self._lock = threading.RLock()
        run.claim()
        self.folder = embeddings.folder_of(run, None)
        self.found = embeddings.load(self.folder)
        self._paths = [row.path for row in assignments.read(self.folder / assignments.FILE)]
        count = len(self.found.features)
        if len(self._paths) != count:
            raise StageError(
                f"{self.folder}: {assignments.FILE} has {len(self._paths)} rows, {embeddings.FILE} "
                f"{count}. Make them anew: --redo evaluate."
            )
        self.split = str(reports.read(run)["split"])
        self.journal = Journal(run.root / FOLDER / FILE, self._of())
        self.notes = [*self.journal.notes]
        try:
            num_own = self.found.probs.shape[1]
            self.corrections = Corrections(count, num_own, self.journal.entries)
        except (ConfigError, KeyError, IndexError) as error:
            raise StageError(
                f"{self.journal.path}: holds what cannot be ({str(error).rstrip('.')}). Take it from a copy, or "
                "move it away to begin without corrections."
            ) from error
        self._take_names()
        self._findings: Findings | None = None
        root = Path(run.config.data.path or "").absolute()
        files = [root / path for path in self._paths] if self.found.are_files else None
        limits = Limits(run.config.data.max_megapixels, run.config.data.decode_mib)
        self.pictures = Pictures(files, self._images, limits)
        self._side = self._side_of(files)

    @property
    def num_images(self) -> int:
        """N."""
        return len(self._paths)

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """Unit rows of the features, float32 [N,D]."""
        return unit(self.found.features)

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            self.journal.close()

    def state(self) -> dict[str, Any]:
        """What the page shows beside the images, JSON-able."""
        with self._lock:
            shown, corrections = self._shown(), self.corrections
            count = max(corrections.state.groups) + 1
            sizes = np.bincount(shown.group, minlength=count)
            said = np.bincount(shown.group[shown.mark == findings.LABELLED], minlength=count)
            sure = np.bincount(shown.group, shown.confidence, count) / np.maximum(sizes, 1)
            data = self.run.config.data
            return {
                "seq": self.journal.seq,
                "session": self.key,
                "run": Path(data.path).resolve().name if data.path else data.name,
                "images": self.num_images,
                "groups": [
                    {
                        "id": group,
                        "name": corrections.state.names.get(group, ""),
                        "size": int(sizes[group]),
                        "said": int(said[group]),
                        "sure": round(float(sure[group]), 4),
                    }
                    for group in corrections.state.groups
                ],
                "undo": corrections.undoes,
                "redo": corrections.redoes,
                "notes": self.notes,
                "classes": list(self.found.class_names),
                "side": self._side,
                "hasDistance": self.found.distance is not None,
            }

    def images(self) -> bytes:
        """What changes of all images, see `Findings.packed`."""
        with self._lock:
            return self._shown().packed(self.found.distance)

    def points(self) -> bytes:
        """The map, float32 [N,2], little-endian, in 0..1 of its larger extent."""
        points = np.asarray(self.found.points, np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        extent = max(float((high - low).max()), 1e-12)
        return ((points - (low + high) / 2) / extent + 0.5).astype("<f4").tobytes()

    def facts(self, row: int) -> dict[str, Any]:
        """What is known of an image."""
        with self._lock:
            shown, label = self._shown(), None
            if self.found.labels is not None and self.found.class_names:
                label = self.found.class_names[int(self.found.labels[row])]
            # A name that is no UTF-8 cannot go into JSON.
            path = self._paths[row].encode("utf-8", "backslashreplace").decode()
            return {
                "row": row,
                "path": path,
                "group": int(shown.group[row]),
                "second": int(shown.second[row]),
                "confidence": round(float(shown.confidence[row]), 4),
                "mark": int(shown.mark[row]),
                "class": label,
            }

    def near(self, rows: list[int], count: int) -> dict[str, Any]:
        """The images most like some, see `findings.near`."""
        best, cosine = findings.near(self.directions, rows, min(count, MOST_NEAR))
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

    def _side_of(self, files: Sequence[Path] | None) -> int | None:
        """The shorter side of the first image in pixels, where no image has to be read for it."""
        if files is None:
            known = self.run.record("pretext").result.get("image_facts") or {}
            return known.get("size")
        try:
            return min(size_of(files[0]))
        except OSError:
            return None

    def _images(self) -> ImageSet:
        from scan_tf.pipeline import evaluate  # loads TensorFlow, which most looking goes without

        return evaluate.images_of(self.run, self.split)

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
        rows: list[int] = members[findings.halves(self.directions[members])].tolist()
        return rows

    def _shown(self) -> Findings:
        if self._findings is None:
            probs = self.found.probs
            columns = np.arange(probs.shape[1], dtype=np.int32)
            self._findings = findings.find(self.corrections.state, probs, columns)
        return self._findings

    def _columns(self) -> list[int]:
        """The group of each cluster of the classifier."""
        return list(range(self.found.probs.shape[1]))

    def _of(self) -> dict[str, Any]:
        """What the corrections are of."""
        weights = names.weights_of(self.run)
        known = seen_images.known(self.run.root).get(self.split)
        digest = None if known is None else hashlib.sha256(known.tobytes()).hexdigest()
        return {
            "stage": weights["stage"],
            "weights": weights["sha256"],
            "split": self.split,
            "images": len(self._paths),
            "digest": digest,
        }

    def _take_names(self) -> None:
        """Take in the names that were given elsewhere, by `scan-tf name`."""
        there, state = names.read(self.run), self.corrections.state
        for column, group in enumerate(self._columns()):
            name = there.get(column, "")
            is_own = group in state.groups
            if there and is_own and name and state.names.get(group, "") != name:
                self._save(self.corrections.checked({"do": "name", "group": group, "name": name}))

    def _give_names(self) -> None:
        """Write the names of those clusters of the classifier that are still there."""
        state = self.corrections.state
        given = {
            column: state.names[group]
            for column, group in enumerate(self._columns())
            if group in state.groups and group in state.names
        }
        if given != names.read(self.run):
            names.write(self.run, given)
