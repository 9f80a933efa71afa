"""`python -m ffrt` is the same as `ffrt`."""

import sys

from ffrt.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
