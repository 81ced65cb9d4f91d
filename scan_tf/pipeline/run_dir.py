"""The run directory: the only interface between stages.

Every stage has a folder, and a record `status/<stage>.json` that says what part of the config it
was made with, whether it is done, and how long it took. A stage that is done is skipped; one that
was made with another config is refused, with the keys that differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf import config, machine
from scan_tf.data import sources
from scan_tf.data.image_set import ImageSet, Split
from scan_tf.errors import StageError
from scan_tf.pipeline import decided, seen_images
from scan_tf.pipeline import record as records
from scan_tf.pipeline.image_facts import ImageFacts
from scan_tf.pipeline.record import Record
from scan_tf.pipeline.stage import CLUSTERINGS, OUTPUTS, STAGES, TRAINED, since, up_to
from scan_tf.settings.schema import Section
from scan_tf.settings.sealed import seal
from scan_tf.storage import files, writing

_NUMERIC_RUNTIME = ("dtype", "jit_compile")  # no others change the numbers
# Settings that say where images are, how they are checked and how they are read, not what they are.
WHERE = ("data.path", "data.strict")
_HOW_READ = ("decode_mib", "streaming", "cache")


class Run:
    """A config and the directory that holds its results.

    Args:
        settings: the resolved config.
        root: the run directory; created when missing.

    Attributes:
        finish: a stage that is to end with what it has learnt so far; None: none.
        keeps_embeddings: whether an evaluation leaves the features of all images on the disk.
    """

    finish: str | None = None
    keeps_embeddings = True

    def __init__(self, settings: config.Config, root: Path):
        self.config = settings
        self.root = root
        self._images: dict[Split, ImageSet | None] = {}
        self._digests: dict[str, np.ndarray] = {}
        self.told: set[str] = set()  # stages that are known to whoever watches to be done
        self.scores: dict[str, Any] = {}  # what `evaluate` computes once for runs that share images
        self._writing: writing.Writing | None = None

    @functools.cached_property
    def device(self) -> machine.Device:
        """The resolved runtime settings; they are the first thing that loads TensorFlow."""
        return machine.resolve(self.config.runtime)

    @classmethod
    def open(cls, root: Path, overrides: Iterable[str] = ()) -> Run:
        """The run in a directory, by its own config; `overrides` as on the command line.

        Raises:
            ConfigError: the directory holds no run, or a setting is bad.
        """
        return cls(config.load_run(root, overrides), root)

    def claim(self) -> None:
        """Become the one process that writes here, and remove what killed ones have left.

        Raises:
            StageError: another process is at work here, or the directory cannot be written.
        """
        try:
            with files.room(self.root / "status"):
                self._writing = writing.Writing.of(self.root)
        except OSError as error:
            raise StageError(
                f"{self.root}: cannot be written ({error}). Give another --run-dir."
            ) from error

    def folder(self, stage: str) -> Path:
        """The folder of a stage."""
        return self.root / STAGES[stage].folder

    def seed(self, stage: str) -> int:
        """A seed for each stage, derived from the run's."""
        number = list(STAGES).index(stage)
        again = self.config.clustering_seed if stage in TRAINED[1:] else 0
        sequence = np.random.SeedSequence([self.config.seed, number, again])
        return int(sequence.generate_state(1)[0] >> 1)

    def images(self, split: Split) -> ImageSet | None:
        """A split of the data set, read once; None where there is none.

        Raises:
            StageError: they are not the images that the run has learnt from.
        """
        if split not in self._images:
            found = sources.load(self.config.data, split)
            if found is not None:
                digests = seen_images.digests(found)
                seen_images.check(self.root, found, digests)
                self._digests[split] = digests
            self._images[split] = found
        return self._images[split]

    def share_images(self, other: Run) -> None:
        """Use what another run has read of the same images."""
        self._images, self._digests, self.scores = other._images, other._digests, other.scores

    def images_digest(self, split: Split) -> str:
        """A digest of the images of a split, in their order."""
        self.images(split)
        return seen_images.digest(self._digests[split])

    @property
    def pretext_images(self) -> ImageSet:
        """What the pretext learns from: the training images, or more."""
        if sources.pretext_is_train(self.config.data):
            return self.train_images
        return self.images("pretext") or self.train_images

    @property
    def train_images(self) -> ImageSet:
        """The training split, which every data set has."""
        images = self.images("train")
        if images is None:
            raise StageError(f"data.name: '{self.config.data.name}' has no training images.")
        return images

    @property
    def facts(self) -> ImageFacts:
        """Of the training images; where they are not read yet, as the pretext has seen them."""
        known = self.record(TRAINED[0]).result.get("image_facts")
        if known and "train" not in self._images:
            return ImageFacts.from_dict(known)
        return ImageFacts.of(self.train_images)

    @property
    def num_clusters(self) -> int:
        """`scan.num_clusters`, the number of classes, or what was decided; see `decided`."""
        return decided.number(self)

    def inference(self, progress: str | None) -> dict[str, Any]:
        """Options of `embedding.embed`; `progress` is the name of the bar."""
        shown = progress if self.config.runtime.progress else None
        size = self.config.evaluate.batch_size
        return {"batch_size": size, "jit": self.device.jit_step, "progress": shown}

    def is_done(self, stage: str) -> bool:
        """Whether the stage has finished with this config.

        Raises:
            StageError: it, or one before it, was made with another config.
        """
        for earlier in up_to(stage):
            self._check_config(earlier)
        return self.record(stage).is_done

    def require(self, stage: str) -> None:
        """Raise StageError, naming the command to run, unless the stage is done."""
        if not self.is_done(stage):
            raise StageError(
                f"{self.folder(stage)}: the stage '{stage}' has not finished. "
                f"Run: scan-tf {stage} --run-dir {self.root}"
            )

    def clusterings(self) -> list[str]:
        """The stages that clustered the images; the last one, as the guard has it, is to be shown.

        Raises:
            StageError: none has finished, or one was made with another config.
        """
        done = [stage for stage in CLUSTERINGS if self.is_done(stage)]
        if not done:
            self.require(CLUSTERINGS[0])
        if self.record(done[-1]).result.get("kept") == CLUSTERINGS[0]:
            done = [s for s in reversed(done) if (self.folder(s) / "weights.npz").exists()]
        return done

    def record(self, stage: str) -> Record:
        """What is known of a stage. Raises StageError where its record is damaged."""
        return records.read(self.root, stage)

    def sealed(self, stage: str, name: str) -> Path:
        """A file of a finished stage, as the stage left it; one that is not there is let pass.

        Raises:
            StageError: it has been damaged since; the message names the command that restores it.
        """
        return records.sealed(self.root, stage, self.record(stage), name)

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[dict[str, Any]]:
        """Keep the record while a stage runs; the dict that is given is stored as its result."""
        self.claim()
        before = self.record(stage)
        start, result = time.monotonic(), dict[str, Any]()

        def write(status: str) -> None:
            seen_images.remember(self.root, self._digests)
            done = status == "done"
            record = Record(
                status,
                round(before.wall_time_s + time.monotonic() - start, 2),
                self.read_by(stage),
                result,
                files=records.seals(self.folder(stage)) if done else {},
                made_of=self._made_of(stage),
                extended=before.extended,
            )
            records.write(self.root, stage, record)

        write("running")
        try:
            yield result
        except BaseException:
            with contextlib.suppress(StageError):  # no room for it: then it says "running"
                write("interrupted")
            raise
        if stage not in OUTPUTS:
            for name in OUTPUTS:
                records.path_of(self.root, name).unlink(missing_ok=True)
        if stage == TRAINED[0] and self._images.get("train") is not None:
            result["image_facts"] = dataclasses.asdict(ImageFacts.of(self.train_images))
        write("done")

    def redo(self, stage: str) -> None:
        """Delete the results of a stage and of all that follow it.

        Raises:
            StageError: a stage before it was made with another config; nothing is deleted.
        """
        for earlier in up_to(stage)[:-1]:
            self._check_config(earlier)
        self.claim()
        # The last one first: nothing that is left counts as done without what it was made of.
        for later in reversed(since(stage)):
            records.path_of(self.root, later).unlink(missing_ok=True)
            writing.remove(self.folder(later))
        if stage == "pretext":
            seen_images.forget(self.root, ("pretext", "train", "test"))
        elif self.config.scan.selection != "test":
            seen_images.forget(self.root, ("test",))

    def write_config(self) -> None:
        """Write the resolved config, and what it runs on, before anything else.

        Raises:
            StageError: the directory cannot be written.
        """
        self.claim()
        text = json.dumps(machine.environment() | dataclasses.asdict(self.device), indent=2)
        try:
            files.write_text(self.root / config.COPY, seal(config.dump(self.config)))
            files.write_text(self.root / "environment.json", text + "\n")
        except OSError as error:
            raise StageError(
                f"{self.root}: cannot be written ({error}). Give another --run-dir."
            ) from error

    def read_by(self, stage: str) -> dict[str, Any]:
        """The sections of the config that the stage itself reads."""
        tree = config.to_dict(self.config)
        tree["runtime"] = {k: tree["runtime"][k] for k in _NUMERIC_RUNTIME}
        tree["data"] = {k: v for k, v in tree["data"].items() if k not in _HOW_READ}
        return {k: tree[k] for k in STAGES[stage].reads}

    def defaults(self) -> dict[str, Any]:
        """The defaults of the sections, which settings had before there were any."""
        sections = {f.name: getattr(self.config, f.name) for f in dataclasses.fields(self.config)}
        return {
            name: config.to_dict(type(section)())
            for name, section in sections.items()
            if isinstance(section, Section)
        }

    def _check_config(self, stage: str) -> None:
        record = self.record(stage)
        if not record.is_done and not (record.has_begun and any(self.folder(stage).rglob("ckpt"))):
            return  # there is nothing that was made with another config
        found = [f"{key} is {was!r} there, {now!r} here" for key, was, now in self.changed(stage)]
        if found:
            raise StageError(
                f"{self.folder(stage)} was made with another config: {'; '.join(found)}. "
                f"Use another --run-dir, or --redo {stage} to replace it and what follows it."
            )
        for earlier, digest in record.made_of.items():
            if self.record(earlier).output not in (None, digest):
                raise StageError(
                    f"{self.folder(stage)} was made of another result of the stage '{earlier}' "
                    f"than is there now. Use --redo {stage} to make it of this one."
                )

    def changed(self, stage: str) -> list[tuple[str, Any, Any]]:
        """The settings of a stage that differ from its record: there, and here."""
        there, here = self.record(stage).config, self.read_by(stage)
        found = list(records.differences(there, here, self.defaults()))
        # Images that are known are compared themselves when they are read.
        if any(key in WHERE for key, _, _ in found) and "train" in seen_images.known(self.root):
            found = [row for row in found if row[0] not in WHERE]
        return found

    def _made_of(self, stage: str) -> dict[str, str]:
        """The digests of what the stages before have left for it."""
        outputs = {earlier: self.record(earlier).output for earlier in up_to(stage)[:-1]}
        return {earlier: digest for earlier, digest in outputs.items() if digest is not None}
