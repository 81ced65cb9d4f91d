"""A whole small run by stage, the parts of its report, heads alone, and how costs grow.

Example:
    python scripts/bench_pipeline.py --config configs/digits_simclr.yaml --json pipeline.json \
        --plot growth.png
"""

from __future__ import annotations

import cProfile
import functools
import json
import math
import pstats
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench

# What the parts of the report are looked for in.
EVALUATION = ("metrics", "knn", "report", "evaluate", "probes", "calibration", "pictures", "charts")
SIZES: dict[str, list[int]] = {
    "images": [5_000, 10_000, 20_000, 40_000],
    "image size": [16, 24, 32, 48],
    "clusters": [10, 40, 160, 640],
    "K": [5, 10, 20, 40, 80],
    "batch": [32, 64, 128, 256],
}


# A whole run


def whole_run(config: str, overrides: Sequence[str]) -> bench.Run:
    """All stages in a new run directory; seconds by stage and by part of the evaluation."""
    from scan_tf import config as settings
    from scan_tf.pipeline import stages
    from scan_tf.pipeline.run_dir import Run
    from scan_tf.pipeline.stage import STAGES

    loaded = settings.load(config, overrides)

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(loaded, Path(folder))
            profile = cProfile.Profile()
            for stage in STAGES:
                if stage == "evaluate":
                    profile.enable()
                stages.run_stage(run, stage)
                profile.disable()
            seconds = {stage: run.record(stage).wall_time_s for stage in STAGES}
        return {"stages": seconds, "report": parts(profile)}

    return run


def parts(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds in each public function of the evaluation, what it calls included."""
    found = {}
    for (file, _, name), (*_, seconds, _) in pstats.Stats(profile).stats.items():
        path = Path(file)
        inside = "scan_tf" in path.parts[:-1] and path.stem in EVALUATION
        if inside and not name.startswith(("_", "<")):
            found[f"{path.stem}.{name}"] = seconds
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def show_run(results: Sequence[bench.Result]) -> None:
    """The stages of the last run, and the parts of its report that took longest."""
    for result in results:
        for title, limit in (("stages", 10), ("report", 15)):
            seconds = result.facts.get(title, {})
            total = max(sum(seconds.values()) if title == "stages" else 0, 1e-9)
            print(f"\n{title}, seconds")
            for name, value in list(seconds.items())[:limit]:
                share = f"{value / total:7.1%}" if title == "stages" else ""
                print(f"{name:36} {value:8.2f} {share}")


# Growth


def mining(index: str, images: int = 10_000, k: int = 20) -> bench.Run:
    """Neighbour mining with 128 dimensions."""
    import numpy as np

    from scan_tf.config import NeighborsConfig
    from scan_tf.features import neighbors

    features = np.random.default_rng(0).standard_normal((images, 128), np.float32)
    settings = NeighborsConfig(index=index)

    def run() -> None:
        neighbors.mine(features, settings, k=k, seed=0)

    return run


def scores(images: int = 10_000, clusters: int = 10) -> bench.Run:
    """Matching clusters and classes, and ACC, NMI, ARI."""
    import numpy as np

    from scan_tf.evaluation import metrics

    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, clusters, (2, images))

    def run() -> None:
        metrics.cluster_scores(labels, predicted, num_classes=clusters, num_clusters=clusters)

    return run


def kmeans(images: int = 10_000, clusters: int = 10) -> bench.Run:
    """One start of k-means on features of 512 dimensions, as in the report."""
    import numpy as np

    from scan_tf.evaluation import probes

    random = np.random.default_rng(0)
    labels = random.integers(0, clusters, images)
    features = random.standard_normal((clusters, 512), np.float32)[labels]
    features += 2 * random.standard_normal((images, 512), np.float32)
    how = {"num_clusters": clusters, "num_classes": clusters, "restarts": 1, "seed": 0}

    def run() -> None:
        probes.kmeans_scores(features, features, labels, **how)

    return run


def agreement(images: int = 2_000, clusters: int = 10, heads: int = 10) -> bench.Run:
    """What the heads have in common, which the stage `scan` looks for at its end."""
    import numpy as np

    from scan_tf.evaluation import consensus

    random = np.random.default_rng(0)
    labels = random.integers(0, clusters, images)
    chosen = np.where(random.random((heads, images)) < 0.8, labels, labels[::-1])
    logits = 5 * np.eye(clusters, dtype=np.float32)[chosen]
    logits = np.exp(logits + random.standard_normal(logits.shape, np.float32))
    probs = logits / logits.sum(axis=2, keepdims=True)

    def run() -> None:
        consensus.of_heads(probs, seed=0)

    return run


def network_step(stage: str, batch: int = 128, size: int = 32) -> bench.Run:
    """A step of a small network (ResNet-10 of width 16), in the dtype of this machine."""
    import bench_step

    from scan_tf import machine
    from scan_tf.config import RuntimeConfig

    found = machine.resolve(RuntimeConfig())
    model = {"backbone": "resnet10", "width": 16, "stem": "cifar"}
    options = {"dtype": found.dtype, "jit": found.jit_step, "batch": batch, "size": size}
    return bench_step.scan_tf_step(stage, model=model, **options)


def head_epoch(
    images: int = 10_000, clusters: int = 10, heads: int = 10, batch: int = 1000
) -> bench.Run:
    """An epoch of training heads on cached features of 512 dimensions."""
    import numpy as np
    import tensorflow as tf

    from scan_tf import config, machine
    from scan_tf.methods.clustering import scan
    from scan_tf.models import resnet
    from scan_tf.models.heads import ClusterHeads
    from scan_tf.training.loader import CachedLoader, Order
    from scan_tf.training.loop import Trainer

    random = np.random.default_rng(0)
    runtime = config.RuntimeConfig(progress=False, tensorboard=False, checkpoint_minutes=1e3)
    network = ClusterHeads(heads, clusters)
    backbone = resnet.build(config.ModelConfig("resnet10", width=64), image_size=8, dtype="float32")
    network(tf.zeros([1, backbone.feature_dim]))
    settings = scan.Config(freeze_backbone=True, batch_size=batch, epochs=10**6)
    task = scan.Method(settings, backbone, network, cached=True)
    neighbors = random.integers(0, images, (images, 21), np.int32)
    order = Order(images, batch, seed=0, neighbors=neighbors)
    features = random.standard_normal((1, images, backbone.feature_dim), np.float32)
    loader = CachedLoader(dict.fromkeys(task.views, features), task.views, order)
    where = machine.resolve(runtime)
    trainer = Trainer(task, loader, settings, Path("unused"), runtime=runtime, device=where)
    steps = trainer.steps(0)

    def run() -> None:
        for step, _ in steps:
            if step % loader.steps_per_epoch == 0:
                return

    return run


def cached_heads() -> list[bench.Case]:
    """An epoch of 10 heads on 50,000 cached features, by batch size."""
    return [
        bench.Case(
            "epoch of 10 heads on 50,000 cached features",
            f"batch {batch}",
            head_epoch,
            {"images": 50_000, "batch": batch},
            units=50_000,
        )
        for batch in (128, 1000)
    ]


def growth(chosen: dict[str, list[int]]) -> list[bench.Case]:
    """A case for every size of every axis; the ratios are to the smallest."""
    made: dict[str, dict[str, tuple[Any, str, dict[str, Any]]]] = {
        "images": {
            "mining, exact": (mining, "images", {"index": "exact"}),
            "mining, Annoy": (mining, "images", {"index": "annoy"}),
            "mining, HNSW": (mining, "images", {"index": "hnsw"}),
            "epoch of 10 heads": (head_epoch, "images", {}),
            "scores": (scores, "images", {}),
            "k-means": (kmeans, "images", {}),
            "agreement of heads": (agreement, "images", {}),
        },
        "image size": {
            "SimCLR step": (network_step, "size", {"stage": "simclr"}),
            "features": (network_step, "size", {"stage": "inference"}),
        },
        "clusters": {
            "epoch of 10 heads": (head_epoch, "clusters", {}),
            "scores": (scores, "clusters", {}),
            "k-means": (kmeans, "clusters", {}),
            "agreement of heads": (agreement, "clusters", {}),
        },
        "K": {
            "mining, exact": (mining, "k", {"index": "exact"}),
            "mining, Annoy": (mining, "k", {"index": "annoy"}),
            "mining, HNSW": (mining, "k", {"index": "hnsw"}),
        },
        "batch": {"SimCLR step": (network_step, "batch", {"stage": "simclr"})},
    }
    return [
        bench.Case(
            f"growth with {axis}: {what}",
            f"{size:,}",
            make,
            {**more, argument: size},
            needs=("hnswlib",) if "HNSW" in what else (),
        )
        for axis, kinds in made.items()
        for what, (make, argument, more) in kinds.items()
        for size in chosen[axis]
    ]


def exponents(results: Sequence[bench.Result]) -> dict[str, dict[str, Any]]:
    """Of each growth: sizes, median seconds, and the slope of the line through their logarithms."""
    curves: dict[str, dict[str, Any]] = {}
    for result in results:
        if result.seconds:
            curve = curves.setdefault(result.case.group, {"sizes": [], "seconds": []})
            curve["sizes"].append(int(result.case.name.replace(",", "")))
            curve["seconds"].append(statistics.median(result.seconds))
    for curve in curves.values():
        if len(curve["sizes"]) > 1:
            x, y = ([math.log(v) for v in curve[k]] for k in ("sizes", "seconds"))
            curve["exponent"] = statistics.linear_regression(x, y).slope
    return curves


def plot(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """Seconds over size, both logarithmic; one panel for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = list(dict.fromkeys(name.split(":")[0] for name in curves))
    figure, panels = pyplot.subplots(1, len(axes), figsize=(4 * len(axes), 3.5), squeeze=False)
    for axis, panel in zip(axes, panels[0], strict=True):
        for name, curve in curves.items():
            if name.split(":")[0] == axis:
                label = f"{name.split(': ')[1]} ({curve.get('exponent', math.nan):.2f})"
                panel.loglog(curve["sizes"], curve["seconds"], "o-", label=label)
                panel.set_xticks(curve["sizes"], [f"{size:,}" for size in curve["sizes"]])
        panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        panel.set(title=axis, ylabel="seconds")
        panel.legend(title="exponent in brackets", fontsize="small", loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Print the tables; see --help."""
    parser = bench.parser(__doc__, repeats=1)
    root = Path(__file__).parents[1]
    parser.add_argument("--config", type=Path, default=root / "configs" / "digits_simclr.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="as in scan-tf")
    parser.add_argument("--plot", type=Path, help="write the picture of the growth there")
    parser.add_argument("--sizes", type=json.loads, default={}, help='such as {"K": [5, 10]}')
    arguments = parser.parse_args(argv)
    quiet = ("runtime.progress=false", "runtime.tensorboard=false")
    options = {"config": str(arguments.config), "overrides": [*quiet, *arguments.set]}
    measured = functools.partial(bench.main, arguments=arguments)
    run = bench.Case("whole run", arguments.config.stem, whole_run, options, warm=False)
    runs = measured([run], unit="runs")
    show_run(runs)
    heads = measured(cached_heads(), unit="images")
    grown = measured(growth(SIZES | arguments.sizes), unit="times")
    curves = exponents(grown)
    if curves:
        print("\nexponents")
    for name, curve in curves.items():
        print(f"{name:44} {curve.get('exponent', math.nan):6.2f}")
    if arguments.plot and curves:
        plot(curves, arguments.plot)
    if arguments.json:
        bench.write(arguments, "runs", [*runs, *heads, *grown], growth=curves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
