"""The stages: which there are, in which order, and what is to be known of each.

Every list of stages in the program is derived from `STAGES`. What a stage does is the function
`run(run)` of the module of its name beside this one; this table loads none of them, so that a
command line needs no TensorFlow to show its help.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: of its module, its record, and its section of the config where it has one.
        help: what it is for, as a command.
        title: what it is doing, as it is printed.
        reads: sections of the config that it reads beside those of the stages before it.
        trains: whether it trains networks, in the one loop.
        shared: whether several processes work on it, with `runtime.strategy=multi_worker`.
        keeps: files of its folder that the stages after it need.
        begun: files of its folder that it needs itself to go on where it was interrupted.
        folder: its folder in the run directory, where that has another name.
        label: of a stage that clusters: the name of its result in tables and charts.
    """

    name: str
    help: str
    title: str
    reads: tuple[str, ...] = ()
    trains: bool = False
    shared: bool = False
    keeps: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    folder: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        """Name the folder after the stage; what trains is shared."""
        object.__setattr__(self, "folder", self.folder or self.name)
        object.__setattr__(self, "shared", self.shared or self.trains)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "pretext",
            help="learn features without labels",
            title="learning features without labels",
            reads=("seed", "data", "model", "augment", "pretext", "runtime"),
            trains=True,
            keeps=("weights.npz",),
            begun=("ckpt/state.npz",),
        ),
        Stage(
            "neighbors",
            help="find the nearest neighbours of every image",
            title="finding the nearest neighbours of every training image",
            reads=("neighbors",),
            shared=True,
            keeps=("train.npz",),
        ),
        Stage(
            "scan",
            help="train the cluster heads",
            title="clustering: an image and its neighbours agree, and every cluster is used",
            reads=("clustering_seed", "scan"),
            trains=True,
            keeps=("weights.npz",),
            begun=("heads/weights.npz", "heads/ckpt/state.npz", "best.npz", "ckpt/state.npz"),
            label="SCAN",
        ),
        Stage(
            "selflabel",
            help="fine-tune on confident predictions",
            title="confident predictions teach strongly augmented images",
            reads=("selflabel",),
            trains=True,
            keeps=("weights.npz",),
            begun=("best.npz", "ckpt/state.npz"),
            label="self-label",
        ),
        Stage(
            "evaluate",
            help="score, draw, and write eval/report.json",
            title="scores, pictures and the report",
            reads=("evaluate",),
            folder="eval",
        ),
        Stage(
            "export",
            help="write the SavedModel",
            title="writing the SavedModel, and checking that it computes the same",
        ),
    )
}
TRAINED = tuple(name for name, stage in STAGES.items() if stage.trains)
SHARED = tuple(name for name, stage in STAGES.items() if stage.shared)
CLUSTERINGS = tuple(name for name, stage in STAGES.items() if stage.label)
# They tell of the last stage that was trained, so that training another makes them out of date.
OUTPUTS = tuple(STAGES)[tuple(STAGES).index(TRAINED[-1]) + 1 :]
# What can be made again with another seed on the same pretext; the rest of the run stays.
REPEATED = tuple(name for name in STAGES if name not in (TRAINED[0], OUTPUTS[-1]))


def is_left_out(config: Any, stage: str) -> bool:
    """Whether a stage that trains has no epochs to train."""
    return not getattr(getattr(config, stage, None), "epochs", 1)


def up_to(stage: str) -> list[str]:
    """The names of the stages before a stage, and its own."""
    names = list(STAGES)
    return names[: names.index(stage) + 1]


def since(stage: str) -> list[str]:
    """The name of a stage, and those of the stages after it."""
    names = list(STAGES)
    return names[names.index(stage) :]


def labels() -> dict[str, str]:
    """The clusterings by name, as tables call them: each but the first goes on from one before."""
    return {
        name: STAGES[name].label if name == CLUSTERINGS[0] else f"+ {STAGES[name].label}"
        for name in CLUSTERINGS
    }
