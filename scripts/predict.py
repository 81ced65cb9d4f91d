"""Cluster new images into a CSV file: the same as `scan-tf predict`.

Example:
    python scripts/predict.py runs/digits_simclr photo.png folder/ --output preds.csv
"""

import sys

from scan_tf.cli import stage_main

if __name__ == "__main__":
    sys.exit(stage_main("predict"))
