"""Cluster several times from one pretext checkpoint, as the paper's tables do; mean and deviation.

Example:
    python scripts/seeds.py runs/digits_simclr --seeds 0 1 2
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

from scan_tf import cli


def main() -> int:
    """Run scan, selflabel and evaluate for every seed, then write RUN_DIR/seeds/scores.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    if not (arguments.run_dir / "status" / "neighbors.json").exists():
        parser.error(f"{arguments.run_dir}: has no neighbors yet. Make them with scan-tf run.")
    reports = []
    for seed in arguments.seeds:
        folder = arguments.run_dir / "seeds" / str(seed)
        _share_pretext(arguments.run_dir, folder)
        settings = ["--config", str(arguments.run_dir / "config.yaml"), "--run-dir", str(folder)]
        for stage in ("scan", "selflabel", "evaluate"):
            code = cli.main([stage, *settings, f"clustering_seed={seed}", *arguments.overrides])
            if code:
                return code
        reports.append(json.loads((folder / "eval" / "report.json").read_text(encoding="utf-8")))
    scores = {s: _summary([r[s] for r in reports]) for s in ("scan", "selflabel")}
    text = json.dumps({"seeds": arguments.seeds, **scores}, indent=2)
    (arguments.run_dir / "seeds" / "scores.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def _share_pretext(source: Path, folder: Path) -> None:
    """Copy what does not depend on the seed of the clustering."""
    for part in ("pretext", "neighbors"):
        if not (folder / part).exists():
            shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns("ckpt"))
            (folder / "status").mkdir(exist_ok=True)
            shutil.copy(source / "status" / f"{part}.json", folder / "status")


def _summary(scores: list[dict]) -> dict:
    columns = {k: [s[k] for s in scores] for k in ("acc", "nmi", "ari")}
    return {
        k: {"mean": statistics.mean(v), "std": statistics.pstdev(v), "values": v}
        for k, v in columns.items()
        if None not in v
    }


if __name__ == "__main__":
    sys.exit(main())
