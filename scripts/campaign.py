"""Long runs in short sessions, and packing them to go on elsewhere.

The commands `run --stop-after`, `pack` and `unpack` of scan-tf.

Example:
    python scripts/campaign.py run --config cifar10_simclr --run-dir runs/cifar10 --stop-after 9
    python scripts/campaign.py pack runs/cifar10 packed/
    python scripts/campaign.py unpack packed/ runs/cifar10 --data-path DIR    # on another machine
"""

import sys

from scan_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
