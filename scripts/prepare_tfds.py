"""Write a data set of tensorflow-datasets from a folder of images; needs no network.

python scripts/prepare_tfds.py --from FOLDER --as cifar10 [--data-dir DIR]

FOLDER holds train/CLASS/* and test/CLASS/*; `scan_tf.data.prepare` says more. The same as
`scan-tf prepare`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scan_tf.data.prepare import prepare
from scan_tf.errors import ScanError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--as", dest="name", required=True, metavar="NAME")
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    options = parser.parse_args(argv)
    try:
        print(prepare(options.source, options.name, options.data_dir))
    except ScanError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
