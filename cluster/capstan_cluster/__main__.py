"""`python -m capstan_cluster`."""

import sys

from capstan_cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
