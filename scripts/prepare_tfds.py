"""Write a data set of tensorflow-datasets from a folder of images: the same as `scan-tf prepare`.

Example:
    python scripts/prepare_tfds.py --from FOLDER --as cifar10 --data-dir DIR
"""

import sys

from scan_tf.cli import stage_main

if __name__ == "__main__":
    sys.exit(stage_main("prepare"))
