"""Corrections, brought into everything that a run has written: scores, tables, page and export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scan_tf.errors import StageError
from scan_tf.evaluation import report
from scan_tf.evaluation.assignments import Clustering
from scan_tf.features.outliers import Reference
from scan_tf.pipeline import (
    corrected,
    doubt,
    embeddings,
    evaluate,
    export,
    names,
    reports,
    result_page,
)
from scan_tf.pipeline.corrected import Corrected
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import STAGES
from scan_tf.storage import files, writing


def accept(run: Run, found: Corrected, given: Mapping[int, str]) -> None:
    """Have a corrected classifier take the place of the last clustering, wherever that is shown.

    Args:
        run: a run that was evaluated.
        found: the classifier.
        given: cluster -> name.

    Raises:
        MissingDataError: the images are not there; nothing is changed.
        StageError: there is no evaluation, or a file of it is damaged.
    """
    _change(run, found, given)


def discard(run: Run, given: Mapping[int, str]) -> None:
    """Have the last clustering stand for itself again; `given` and the errors as of `accept`."""
    _change(run, None, given)


def _change(run: Run, found: Corrected | None, given: Mapping[int, str]) -> None:
    before = run.record("evaluate")
    run.require("evaluate")
    run.claim()
    stored = run.folder("evaluate")
    evaluated = [stored, *sorted(run.root.glob(f"{stored.name}-*"))]
    evaluated = [f for f in evaluated if (f / embeddings.FILE).exists()]
    told = {folder: reports.read(run, None if folder == stored else folder) for folder in evaluated}
    images = {folder: evaluate.images_of(run, told[folder]["split"]) for folder in evaluated}
    # What is killed in here is evaluated anew, by `scan-tf evaluate`, with whatever holds then.
    with run.working("evaluate") as result:
        result.update(before.result)
        if found is None:
            corrected.remove(run)
        else:
            corrected.store(run, found)
        names.write(run, given)
        for folder in evaluated:
            _renew(run, folder, images[folder], told[folder])
    if run.record("export").is_done:
        with run.working("export") as result:
            result.update(export.run(run))


def _renew(run: Run, folder: Path, images: Any, told: dict[str, Any]) -> None:
    """Write the evaluation of a split again, as far as the last clustering is in it."""
    there, stage, found = embeddings.load(folder), run.clusterings()[-1], corrected.load(run)
    own = there.probs if there.own_probs is None else there.own_probs
    if len(own) != len(images):
        raise StageError(
            f"{folder}: it is of {len(own)} images, and there are {len(images)}. "
            "Make it anew: --redo evaluate."
        )
    if found is None:
        clustering = Clustering(stage, STAGES[stage].label, own, there.features)
    else:
        clustering = corrected.clustering(found, told["split"], there.features)
    listed = names.listed(names.read(run), clustering.probs.shape[1])
    clustering = dataclasses.replace(clustering, names=listed)
    compared, known = None, doubt.read(folder)
    if known is not None and there.distance is not None:
        compared = Reference(known.bank, known.far), there.distance

    path = folder / "assignments.npz"
    arrays = files.read_npz(path)[0] if path.exists() else {}
    arrays = {k: v for k, v in arrays.items() if not k.startswith(f"{corrected.NAME}_")}
    writing.remove(folder / "clusters")
    beginning = told | {
        corrected.NAME: None,
        "warnings": list(run.record("scan").result.get("warnings", [])),
        "abstain": None,
    }
    root = run.config.data.path
    renewed: Any = report.write(
        folder,
        images,
        [clustering],
        beginning,  # type: ignore[arg-type]
        config=run.config.evaluate,
        root=None if root is None else Path(root),
        curves={s: files.read_metrics(run.sealed(s, "metrics.jsonl")) for s in STAGES},
        points=there.points,
        compared=compared,
        below=None if found is None else found.below,
    )
    if found is None:  # its scores were told in full before
        renewed[stage] = told[stage]
        files.write_text(folder / reports.FILE, json.dumps(renewed, indent=2) + "\n")
    else:
        arrays |= files.read_npz(path)[0]
    files.write_npz(path, arrays, {})
    embeddings.store(
        folder,
        images,
        clustering,
        there.points,
        there.distance,
        own_probs=None if found is None else own,
    )
    doubt.store(folder, compared, renewed["abstain"])
    result_page.write(run, images, clustering, there.points, folder, distance=there.distance)
