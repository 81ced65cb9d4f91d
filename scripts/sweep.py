"""Clustering with each of several values of settings, on one pretext: `scan-tf sweep`.

Example:
    python scripts/sweep.py --run-dir runs/digits_simclr scan.entropy_weight=1,2,5 --seeds 0 1 2
"""

import sys

from scan_tf.cli import stage_main

if __name__ == "__main__":
    sys.exit(stage_main("sweep"))
