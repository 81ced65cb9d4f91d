"""Find the nearest neighbours of every training image: the same as `scan-tf neighbors`.

Example:
    python scripts/neighbors.py --config configs/digits_simclr.yaml --run-dir runs/digits_simclr
"""

import sys

from scan_tf.cli import stage_main

if __name__ == "__main__":
    sys.exit(stage_main("neighbors"))
