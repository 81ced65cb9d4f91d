"""The whole pipeline, stage by stage: the same as `scan-tf run`.

Example:
    python scripts/run.py --config configs/digits_simclr.yaml --run-dir runs/digits_simclr
"""

import sys

from scan_tf.cli import stage_main

if __name__ == "__main__":
    sys.exit(stage_main("run"))
