"""Names of clusters, brought into everything that a run has written: tables, page and export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scan_tf.errors import MissingDataError
from scan_tf.evaluation import assignments
from scan_tf.evaluation.assignments import Clustering
from scan_tf.pipeline import (
    corrected,
    embeddings,
    evaluate,
    export,
    names,
    reports,
    result_page,
)
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import STAGES


def rename(run: Run, changes: Mapping[int, str]) -> dict[int, str]:
    """Give clusters of the last clustering names, "" to take one away.

    Args:
        run: a run that was evaluated.
        changes: cluster -> name; none: what stands in `names.yaml` is brought in.

    Returns:
        Cluster -> name of all that have one.

    Raises:
        StageError: there is no evaluation, or one of an earlier version.
        DataError: a file of it is damaged.
        MissingDataError: the images are not there, of which the page shows some; the names are in
            everything else then.
    """
    count = embeddings.load(run.folder("evaluate")).probs.shape[1]
    run.require("evaluate")
    run.claim()
    given = {c: name for c, name in (names.read(run) | dict(changes)).items() if name}
    names.write(run, given)
    listed = names.listed(given, count)
    stored = run.folder("evaluate")
    there = [f for f in (stored, *sorted(run.root.glob(f"{stored.name}-*"))) if _is_evaluated(f)]
    for folder in there:
        assignments.rename(folder / assignments.FILE, listed)
    try:
        _make_again(run, there, listed)
    except MissingDataError as error:
        raise MissingDataError(
            f"{error} The names are stored, and in {assignments.FILE}; the page, which shows the "
            "images, gets them by the same command when they are there again."
        ) from error
    return given


def _make_again(run: Run, evaluated: Sequence[Path], listed: Sequence[str]) -> None:
    """The export, which has the names inside, and the pages."""
    if run.record("export").is_done:
        with run.working("export") as result:
            result.update(export.run(run))
    stage, label = run.clusterings()[-1], ""
    if corrected.load(run) is not None:
        stage, label = corrected.NAME, corrected.LABEL
    for folder in evaluated:
        found = embeddings.load(folder)
        clustering = Clustering(
            stage, label or STAGES[stage].label, found.probs, found.features, names=listed
        )
        images = evaluate.images_of(run, reports.read(run, folder)["split"])
        result_page.write(run, images, clustering, found.points, folder, distance=found.distance)


def _is_evaluated(folder: Path) -> bool:
    names = (assignments.FILE, embeddings.FILE, reports.FILE)
    return all((folder / name).exists() for name in names)
