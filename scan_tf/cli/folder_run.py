"""What `run FOLDER` does beside the stages: it chooses for the images, and says what comes next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scan_tf.pipeline.run_dir import Run

# Minutes that it takes at most, where nobody says more.
MINUTES = 10.0


def fit_to_images(
    run: Run, chosen: str | None, given: set[str], minutes: float | None
) -> list[str]:
    """Settings for so many images, and what is to be said of them, in lines.

    `chosen` is the recipe, where nobody has named one.
    """
    from scan_tf.pipeline import choices, sizes

    made: list[choices.Choice] = []
    if chosen is not None:
        from scan_tf.data.sets import folder

        run.config, made = choices.network(
            run.config,
            folder.count(run.config.data),
            budget_s=60 * (minutes or MINUTES),
            given=given,
            seconds=choices.measured(run.config),
        )
    count = len(run.train_images)
    run.config, notes = sizes.fitted(run.config, count, given=given)
    smaller = {key: f"{change}: there are only {count} images" for key, change in notes.items()}
    if chosen is None:
        return [f"{key}: {why}" for key, why in smaller.items()]
    said = [*choices.lines(run, chosen, made, given=given, notes=smaller)]
    if minutes is None and any(key.endswith(".epochs") for key in given):
        return said  # nothing limits it
    limit = f"about {minutes:g} minutes at most" if minutes else f"at most {MINUTES:g} minutes"
    return [*said, f"time: {limit}; more exactly once there are steps to go by"]


def say_what_next(run: Run) -> None:
    """Where results lie, and what to do with them."""
    table = run.folder("evaluate") / "assignments.csv"
    page = run.folder("evaluate") / "report.html"
    print(f"look at: {page}\nevery image and its cluster: {table}")
    if run.config.data.name != "folder":
        return
    root = shlex.quote(str(run.root))
    print(
        f"to look and correct by hand: scan-tf explore {root}\n"
        f"next:\n  scan-tf name {root} 0=cats 1=dogs      # what the clusters show, for all that "
        f"follows\n  scan-tf sort {root} --to sorted --dry-run      # then without --dry-run\n"
        f"  scan-tf predict {root} NEW_IMAGES --output predictions.csv"
    )
