"""Going on with a stage for more epochs, or at another learning rate after it diverged."""

from __future__ import annotations

import dataclasses

from scan_tf.errors import StageError
from scan_tf.pipeline import record as records
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import TRAINED, since

# What a stage may go on with, that was begun with another value.
SETTINGS = ("epochs", "optimizer.lr", "optimizer.clip_norm")


def extend(run: Run) -> str:
    """Have the stage whose settings differ go on from its checkpoint, with those of now.

    The stages after it are deleted; what was changed is recorded.

    Returns:
        The stage.

    Raises:
        StageError: no stage differs, or one differs in more than `SETTINGS`, has no checkpoint, or
            is to have fewer epochs than it was begun with.
    """
    for stage in TRAINED:
        record = run.record(stage)
        changed = {key: [there, here] for key, there, here in run.changed(stage)}
        if record.has_begun and changed:
            _check(run, stage, changed)
            run.claim()
            record = dataclasses.replace(
                record,
                status="interrupted",
                config=run.read_by(stage),
                files={},
                extended=(*record.extended, changed),
            )
            records.write(run.root, stage, record)
            run.redo(since(stage)[1])
            told = (f"{key} {there!r} -> {here!r}" for key, (there, here) in changed.items())
            print(f"{stage}: goes on with {', '.join(told)}")
            return stage
    raise StageError(
        f"{run.root}: --extend: no stage was begun with other settings. Give the new ones, such as "
        "pretext.epochs=800 or scan.optimizer.lr=1e-5."
    )


def _check(run: Run, stage: str, changed: dict[str, list[object]]) -> None:
    allowed = [f"{stage}.{key}" for key in SETTINGS]
    if others := sorted(changed.keys() - {*allowed}):
        raise StageError(
            f"--extend: {', '.join(others)} cannot change while '{stage}' goes on, only "
            f"{', '.join(allowed)}. Use another --run-dir, or --redo {stage}."
        )
    if not any((run.folder(stage) / "ckpt").glob("*.npz")):
        raise StageError(f"{run.folder(stage)}: --extend: there is no checkpoint to go on from.")
    there, here = changed.get(f"{stage}.epochs", [0, 0])
    if int(str(here)) < int(str(there)):
        raise StageError(
            f"--extend: {stage}.epochs={here} is less than {there}, which it was begun with."
        )
