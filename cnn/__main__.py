"""``python -m cnn``: the same as the ``cnn`` command."""

import sys

from cnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
