"""Layer-wise gradient check of a config: the same as ``cnn gradcheck``.

python scripts/gradient_check.py configs/mnist_lenet.toml [--layer NAME] [--backend numba] [--json F]
"""

import sys

from cnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["gradcheck", *sys.argv[1:]]))
