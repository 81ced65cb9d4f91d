"""What ImageNet-1k and ten million photos would cost on 1, 8 and 64 GPUs, reckoned.

Nothing here is measured at that size. Every line follows from rates that were measured on other
sizes, which `RATES` names with their sources, and from the shapes of the tensors. The tables stand
in docs/scaling.md, between two markers; this program writes them there.

Example:
    python scripts/scaling_plan.py
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "scaling.md"
START, END = "<!-- plan:start -->", "<!-- plan:end -->"
GPUS = (1, 8, 64)


@dataclasses.dataclass(frozen=True)
class Rates:
    """What one machine does; seconds, bytes and floating-point operations.

    Attributes:
        flop: of the convolutions of a training step, a second and GPU, compiled by XLA. Half of
            what ResNet-18 reached at 32 pixels (docs/performance.md, one H200): ResNet-50 at 224
            pixels has more layers that do little but move memory, and was not measured.
        without_xla: a step that XLA does not compile as a whole, as on replicas, beside one that it
            does (docs/performance.md, one H200: 24,300 of 75,200 images a second).
        decoded: JPEGs of 500 x 375 pixels decoded and resized to 224, a second and core (CPU time,
            into a file; docs/scaling.md).
        search: seconds of a core of the exact search at 200,000 rows of 128 numbers, in bfloat16
            (CPU time; `scan_tf/features/neighbors.py`).
        cores: of a machine with one GPU; one with eight has eight times as many.
        inside: bytes a second between the GPUs of a machine. A figure of the hardware.
        between: bytes a second between machines of eight GPUs, 100 Gbit/s. An assumption.
    """

    flop: float = 125e12
    without_xla: float = 24_300 / 75_200
    decoded: float = 160.0
    search: float = 50.0
    cores: int = 16
    inside: float = 450e9
    between: float = 12.5e9


RATES = Rates()


@dataclasses.dataclass(frozen=True)
class Network:
    """ResNet-50 at 224 pixels with SimCLR's projector, as `resnet.build` makes it.

    Attributes:
        forward: floating-point operations of its convolutions for an image.
        trained: numbers that are trained, the projector's among them.
        activations: values that its convolutions make of an image.
        channels: of all its BatchNorms.
        features: D.
        projection: P.
        pixels: bytes of an image of 224 pixels.
    """

    forward: float = 8.174e9
    trained: int = 27_966_656
    activations: int = 11_113_984
    channels: int = 26_560
    features: int = 2048
    projection: int = 128
    pixels: int = 224 * 224 * 3


NETWORK = Network()


@dataclasses.dataclass(frozen=True)
class Job:
    """A data set and what is to be made of it.

    Attributes:
        name: as the tables call it.
        images: N.
        clusters: C.
        pretext: epochs of SimCLR with two views.
        heads: epochs of 10 heads on features of one view that are stored.
        selflabel: epochs of the last stage.
        neighbors: K.
    """

    name: str
    images: int
    clusters: int = 1000
    pretext: int = 200
    heads: int = 100
    selflabel: int = 25
    neighbors: int = 50
    num_heads: int = 10


JOBS = (
    Job("ImageNet-1k", 1_281_167),
    Job("10 million photos", 10_000_000, pretext=25, heads=15, selflabel=3),
)
BATCH = 128  # images for each GPU


def step(gpus: int) -> dict[str, float]:
    """A step of SimCLR on so many GPUs: seconds of its parts, and bytes for each GPU."""
    net, images = NETWORK, BATCH * gpus
    seconds = 2 * BATCH * 3 * net.forward / RATES.flop
    if gpus == 1:
        return {"compute": seconds, "gradients": 0, "gathered": 0, "norms": 0, "network": 0}
    share = (gpus - 1) / gpus
    found = {
        "compute": seconds / RATES.without_xla,
        "gradients": 2 * share * 4 * net.trained,
        "gathered": share * 4 * 2 * images * net.features,
        # Mean and variance of every replica, forward; the sum of their gradients, back.
        "norms": (gpus - 1) * 8 * net.channels + 2 * share * 8 * net.channels * gpus,
    }
    wire = RATES.inside if gpus <= 8 else RATES.between
    moved = found["gradients"] + found["gathered"] + found["norms"]
    return {**found, "network": moved / wire}


def rate(gpus: int) -> float:
    """Images a second of SimCLR; what the network takes is not hidden behind the computing."""
    parts = step(gpus)
    return BATCH * gpus / (parts["compute"] + parts["network"])


def hours(job: Job, gpus: int) -> dict[str, float]:
    """Of each stage."""
    net, count = NETWORK, job.images
    forward = count * net.forward / RATES.flop
    machines = max(1, gpus // 8)
    cores = RATES.cores * min(gpus, 8)
    speed = rate(gpus) / rate(1)
    found = {
        "decode once, on one machine": count / (cores * RATES.decoded),
        f"pretext, {job.pretext} epochs": count * job.pretext / rate(gpus),
        "features, on one GPU": forward,
        "neighbours, exact, on the CPUs": RATES.search * (count / 2e5) ** 2 / (cores * machines),
        f"heads, {job.heads} epochs on stored features, one GPU": job.heads
        * (count * 8 * net.features * job.num_heads * job.clusters / RATES.flop),
        f"self-label, {job.selflabel} epochs": job.selflabel * 4 * forward / speed,
    }
    return {stage: seconds / 3600 for stage, seconds in found.items()}


def sizes(job: Job) -> dict[str, float]:
    """Bytes of what grows with the number of images."""
    net, count = NETWORK, job.images
    soft = 4 * job.num_heads * count * job.clusters
    return {
        "decoded images, on disk": count * net.pixels,
        "features that neighbours are found by": 4 * count * net.projection,
        "features of the backbone, for the heads": 4 * count * net.features,
        f"neighbours, K = {job.neighbors}": 8 * count * (job.neighbors + 1),
        f"soft assignments of {job.num_heads} heads, for their consensus": soft,
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """With two digits that count, or all of those before the point."""
    if value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.995 else f"{value:.1g}"


def text() -> str:
    """The tables."""
    parts = []
    for job in JOBS:
        by_gpus = [hours(job, gpus) for gpus in GPUS]
        rows = [[stage, *(number(h[stage]) for h in by_gpus)] for stage in by_gpus[0]]
        rows.append(["**all**", *(f"**{number(sum(h.values()))}**" for h in by_gpus)])
        heads = [f"{job.name}, hours", *(f"{g} GPU{'s' if g > 1 else ''}" for g in GPUS)]
        parts.append(table(heads, rows))
    stored = [sizes(job) for job in JOBS]
    rows = [
        [re, *(f"{number(s[other] / 1e9)} GB" for s, other in zip(stored, pair, strict=True))]
        for re, *pair in zip(stored[0], *stored, strict=True)
    ]
    parts.append(table(["bytes", *(job.name for job in JOBS)], rows))
    steps = [step(gpus) for gpus in GPUS]
    rows = [
        ["images a second", *(number(rate(g)) for g in GPUS)],
        ["a step computes", *(f"{number(1e3 * s['compute'])} ms" for s in steps)],
        ["gradients, for each GPU", *(f"{number(s['gradients'] / 1e6)} MB" for s in steps)],
        ["gathered features", *(f"{number(s['gathered'] / 1e6)} MB" for s in steps)],
        ["BatchNorm", *(f"{number(s['norms'] / 1e6)} MB" for s in steps)],
        ["on the network, at its full speed", *(f"{number(1e3 * s['network'])} ms" for s in steps)],
        [
            "pixels that every machine reads",
            *(f"{number(rate(g) * NETWORK.pixels / max(1, g // 8) / 1e9)} GB/s" for g in GPUS),
        ],
    ]
    head = [
        f"SimCLR, {BATCH} images for each GPU",
        *(f"{g} GPU{'s' if g > 1 else ''}" for g in GPUS),
    ]
    # What a convolution makes and what its BatchNorm makes of it, in bfloat16.
    kept = 2 * BATCH * NETWORK.activations * 2 * 2
    logits = [4 * (2 * BATCH * g) ** 2 for g in GPUS]
    rows += [
        ["activations for the way back, on each GPU", *[f"{number(kept / 1e9)} GB"] * len(GPUS)],
        ["logits of all pairs, on each GPU", *(f"{number(n / 1e6)} MB" for n in logits)],
    ]
    parts.append(table(head, rows))
    return "\n\n".join(parts)


def with_tables(page: str) -> str:
    """The page as it should be. Exits where the markers are missing."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        sys.exit(f"{DOCUMENT}: expected a line '{START}' and, below it, '{END}'.")
    return f"{before}{start}\n{text()}\n{end}{after}"


def main() -> int:
    """Print the tables and write them into the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(text())
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
