"""A run in legs, for machines that are lent for minutes; and packing it to go on elsewhere.

Example:
    python scripts/campaign.py run --config configs/cifar10_simclr.yaml --run-dir runs/cifar10 \
        --budget-minutes 9
    python scripts/campaign.py pack runs/cifar10 packed/
    python scripts/campaign.py unpack packed/ runs/cifar10 --data-path DIR    # on another machine
"""

import argparse
import os
import sys
import time
from pathlib import Path

from scan_tf import cli
from scan_tf.errors import ScanError


def main() -> int:
    """Run the program.

    Returns:
        0 done, 75 to be continued by the same command, else as `scan-tf`.
    """
    start = time.monotonic()
    arguments = _parse()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return _FUNCTIONS[arguments.command](arguments, start)
    except (ScanError, OSError) as error:
        print(f"campaign: {error}", file=sys.stderr)
        return getattr(error, "exit_code", ScanError.exit_code)
    except KeyboardInterrupt:
        print("campaign: interrupted. Run the same command to go on.", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, start: float) -> int:
    from scan_tf.experiments import legs

    run = cli.open_run(arguments)
    finished = legs.run(
        run,
        budget_s=60 * arguments.budget_minutes,
        margin_s=arguments.margin_seconds,
        seeds=arguments.seeds,
        start=start,
    )
    minutes = (time.monotonic() - start) / 60
    if finished:
        print(f"campaign: finished, after {minutes:.1f} min of this leg: {run.root}")
        return 0
    print(f"campaign: to be continued, after {minutes:.1f} min of this leg: {run.root}")
    return legs.TO_BE_CONTINUED


def _pack(arguments: argparse.Namespace, _: float) -> int:
    from scan_tf.experiments import packs

    files = packs.pack(arguments.run_dir, arguments.folder, part_mib=arguments.part_mib)
    for file in files:
        print(f"{file.stat().st_size / 2**20:8.2f} MiB  {file}")
    print(f"{sum(f.stat().st_size for f in files) / 2**20:8.2f} MiB  in all")
    return 0


def _unpack(arguments: argparse.Namespace, _: float) -> int:
    from scan_tf.experiments import packs

    packs.unpack(arguments.files, arguments.run_dir, data_path=arguments.data_path)
    print(f"unpacked: {arguments.run_dir}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run what is not done, within a budget of minutes")
    cli.add_run_arguments(run)
    run.add_argument("--budget-minutes", type=float, required=True, metavar="M")
    run.add_argument("--margin-seconds", type=float, default=20, metavar="S", help="(default: 20)")
    run.add_argument(
        "--seeds", type=int, nargs="+", default=[], metavar="N", help="repeat the clustering too"
    )
    pack = commands.add_parser("pack", help="write what is needed to go on elsewhere")
    pack.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    pack.add_argument("folder", type=Path, metavar="FOLDER")
    pack.add_argument("--part-mib", type=float, default=15, metavar="M", help="(default: 15)")
    unpack = commands.add_parser("unpack", help="check a pack and make the run directory of it")
    unpack.add_argument("files", type=Path, nargs="+", metavar="FILE", help="or the folder")
    unpack.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    unpack.add_argument("--data-path", metavar="DIR", help="where the images are on this machine")
    return cli.parse(parser, None)


_FUNCTIONS = {"run": _run, "pack": _pack, "unpack": _unpack}


if __name__ == "__main__":
    sys.exit(main())
