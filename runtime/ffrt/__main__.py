"""`python -m ffrt` is the same as `ffrt`."""

import sys

from ffrt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
