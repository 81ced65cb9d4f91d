"""The commands that take results elsewhere: to another machine, and to those who read of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scan_tf.cli.arguments import add_command


def add(commands: Any) -> None:
    """Add the commands."""
    text = "write what is needed of a run to go on elsewhere"
    pack = add_command(commands, "pack", text)
    pack.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    pack.add_argument("folder", type=Path, metavar="FOLDER")
    pack.add_argument("--part-mib", type=float, default=15, metavar="M", help="(default: 15)")
    pack.set_defaults(function=_pack)

    text = "check a pack and make the run directory of it"
    unpack = add_command(commands, "unpack", text)
    unpack.add_argument("files", type=Path, nargs="+", metavar="FILE", help="or the folder")
    unpack.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    unpack.add_argument("--data-path", metavar="DIR", help="where the images are on this machine")
    unpack.set_defaults(function=_unpack)

    text = "copy what is worth publishing of a finished run"
    publish = add_command(commands, "publish", text)
    publish.add_argument("run_dir", type=Path, nargs="+", help="several: equal but for their seeds")
    publish.add_argument("--name", required=True, help="of the new folder, after the date")
    publish.add_argument("--data-note", metavar="TEXT", help="what the data really is")
    publish.add_argument("--hardware", metavar="TEXT", help="(default: as the run recorded it)")
    publish.add_argument("--commit", metavar="HASH", help="(default: as the run recorded it)")
    publish.add_argument("--note", metavar="TEXT", help="what else a reader has to know")
    publish.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    publish.set_defaults(function=_publish)

    text = "write the classifier of a run as a small file of weights"
    weights = add_command(commands, "weights", text)
    weights.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    weights.add_argument("file", type=Path, metavar="NAME.weights.h5")
    weights.set_defaults(function=_weights)

    text = "score such a file of weights on its data set"
    score = add_command(commands, "score", text)
    score.add_argument("file", type=Path, metavar="NAME.weights.h5")
    score.add_argument("--split", choices=["train", "test"], help="(default: as published)")
    score.add_argument("--data-path", metavar="DIR", help="where the data set is")
    score.set_defaults(function=_score)


def _pack(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import packs

    files = packs.pack(arguments.run_dir, arguments.folder, part_mib=arguments.part_mib)
    for file in files:
        print(f"{file.stat().st_size / 2**20:8.2f} MiB  {file}")
    print(f"{sum(f.stat().st_size for f in files) / 2**20:8.2f} MiB  in all")


def _unpack(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import packs

    packs.unpack(arguments.files, arguments.run_dir, data_path=arguments.data_path)
    print(f"unpacked: {arguments.run_dir}")


def _publish(arguments: argparse.Namespace) -> None:
    from scan_tf.experiments import published_results

    folder = published_results.add(
        arguments.run_dir,
        arguments.results,
        name=arguments.name,
        data_note=arguments.data_note,
        hardware=arguments.hardware,
        commit=arguments.commit,
        note=arguments.note,
    )
    print(f"added: {folder}")


def _weights(arguments: argparse.Namespace) -> None:
    from scan_tf.cli.arguments import open_run

    which = argparse.Namespace(config=None, run_dir=arguments.run_dir, overrides=[])
    run = open_run(which, reads_images=False)
    from scan_tf.experiments import published_weights

    facts = published_weights.save(run, arguments.file)
    size = arguments.file.stat().st_size / 1e6
    print(f"{arguments.file}: {size:.1f} MB, weights of {facts['weights_of']}")


def _score(arguments: argparse.Namespace) -> None:
    from scan_tf import lazy

    lazy.load_tensorflow()
    from scan_tf.experiments import published_weights

    scores = published_weights.score(
        arguments.file, split=arguments.split, data_path=arguments.data_path
    )
    cells = (f"{k.upper()} {100 * scores[k]:.2f}" for k in ("acc", "nmi", "ari"))
    print(f"{scores['num_images']:,} images of the {scores['split']} split: {', '.join(cells)}")
