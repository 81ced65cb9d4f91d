"""Train the cluster heads: the same as `scan-tf scan`.

Example:
    python scripts/scan.py --config configs/digits_simclr.yaml --run-dir runs/digits_simclr
"""

import sys

from scan_tf.cli import stage_main

if __name__ == "__main__":
    sys.exit(stage_main("scan"))
