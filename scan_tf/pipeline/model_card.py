"""The model card that goes with an exported classifier (Mitchell et al., 2019)."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from scan_tf import __version__
from scan_tf.evaluation import assignments
from scan_tf.evaluation.text import markdown, percent
from scan_tf.pipeline import corrected, reports
from scan_tf.pipeline.doubt import Doubt
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import STAGES

FILE = "MODEL_CARD.md"


def text(run: Run, stage: str, names: list[str], doubt: Doubt | None, *, image_size: int) -> str:
    """The card, in Markdown.

    Args:
        run: the run.
        stage: whose weights are exported.
        names: of the clusters, "" for one without.
        doubt: when the model abstains; None: never.
        image_size: side of the images that the network sees, in pixels.
    """
    config, report = run.config, _report(run)
    count = len(names)
    data = Path(config.data.path).name if config.data.path else config.data.name
    parts = [
        f"# Image classifier: {data}, {count} clusters",
        f"It puts images into {count} kinds that were found in `{data}` without labels, by SCAN "
        f"(Van Gansbeke et al., ECCV 2020), as implemented in scan_tf {__version__}.",
        "## The kinds",
        _kinds(run, names, report),
        "## How it was made",
        _making(run, stage, report),
        "## How good it is",
        _scores(stage if corrected.load(run) is None else corrected.NAME, report),
        "## None of these",
        _abstaining(doubt, report),
        "## Use",
        "The signature `serving_default` takes `images`, uint8 [B,H,W,3] in RGB of any size, and "
        "gives `cluster`, `name`, `probabilities` and `features`"
        + (", `distance` and `abstain`" if doubt is not None else "")
        + f". The centre square is resized to {image_size} pixels inside. `native` takes images "
        f"uint8 [B,{image_size},{image_size},3].",
        "## Limits",
        "The kinds are what the images differ by to the network, which need not be what somebody "
        "wants to tell apart; look at the report before relying on them. The confidence is not a "
        "probability of being right unless labels have shown that. The model knows nothing of "
        "images of another origin, and should decide nothing about people.",
    ]
    return "\n\n".join(parts) + "\n"


def _report(run: Run) -> dict[str, Any] | None:
    """What the evaluation says, where it is done."""
    there = (run.folder("evaluate") / reports.FILE).exists()
    return reports.read(run) if run.record("evaluate").is_done and there else None


def _kinds(run: Run, names: list[str], report: dict[str, Any] | None) -> str:
    sizes: collections.Counter[int] = collections.Counter()
    path = run.folder("evaluate") / assignments.FILE
    if report is not None and path.exists():
        sizes.update(row.cluster for row in assignments.read(path))
    total = sum(sizes.values())
    rows = [
        (str(c), name.replace("|", "\\|") or "-", percent(sizes[c] / total if total else None))
        for c, name in enumerate(names)
    ]
    return markdown(("cluster", "name", "% of the images"), rows)


def _making(run: Run, stage: str, report: dict[str, Any] | None) -> str:
    config = run.config
    lines = [f"- pretext: `{config.pretext.name}`, backbone `{config.model.backbone}`"]
    if config.pretext.name == "pretrained":
        lines[0] += (
            "; the features are those of a network that others trained, on labels of other "
            "images: their licence and their biases hold here too"
        )
    lines.append(f"- clustering: `{config.scan.name}`, weights of the stage `{stage}`")
    if (found := corrected.load(run)) is not None:
        lines.append(
            f"- then corrected by hand: {found.facts['said']:,} images were put into a cluster, "
            f"{found.facts['none']:,} were said to be none of the kinds; a linear head on the "
            "features was fitted with that"
        )
    lines.append(f"- seed {config.seed}, clustering seed {config.clustering_seed}")
    if report is not None:
        lines.append(f"- looked at: {report['num_images']:,} images of the {report['split']} split")
    lines.append("- all settings: `config.yaml` of the run")
    return "\n".join(lines)


def _scores(stage: str, report: dict[str, Any] | None) -> str:
    found = (report or {}).get(stage)
    if report is None or not found:
        return "It was not evaluated."
    if found.get("acc") is None:
        return (
            f"There are no labels to tell. Mean confidence: {percent(found['mean_confidence'])} %."
        )
    rows = [("k-means on pixels", report["kmeans_pixels"]), (_label(stage), found)]
    keys = ("acc", "nmi", "ari")
    cells = [(name, *(percent(s[key]) for key in keys)) for name, s in rows]
    return markdown(("", "ACC", "NMI", "ARI"), cells) + (
        f"\n\nIn percent, on {report['num_images']:,} images of the {report['split']} split, whose "
        "labels were used for the scores alone."
        + (
            " Images that were put into a cluster by hand count as that."
            if stage == corrected.NAME
            else ""
        )
    )


def _label(clustering: str) -> str:
    return corrected.LABEL if clustering == corrected.NAME else STAGES[clustering].label


def _abstaining(doubt: Doubt | None, report: dict[str, Any] | None) -> str:
    if doubt is None:
        return "The model puts every image into one of the kinds."
    said = (
        f"`abstain` is true where the highest probability is below {doubt.below:.4g} "
        f"({doubt.how}), or where the image is farther than {doubt.far:.4g} from its nearest ones "
        f"among {len(doubt.bank):,} that were learned from (1 - cosine of the features)."
    )
    found = (report or {}).get("abstain")
    if found:
        said += (
            f" Of the evaluated images {found['unsure']:,} are unsure and {found['unlike']:,} "
            f"unlike all others; {percent(found['kept'])} % are kept"
        )
        accuracy = found["accuracy"]
        said += "." if accuracy is None else f", of which {percent(accuracy)} % are right."
    return said
