"""`python -m scan_tf.cli` is `scan-tf`."""

import sys

from scan_tf.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
