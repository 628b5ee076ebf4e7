"""Optional packages: asked for when they are needed."""

import importlib

from cnn.errors import MissingExtra


def require(package, extra, what):
    """Return the imported ``package``; raises MissingExtra that names the extra of cnn that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f'{what} needs the package {package.split(".")[0]}: pip install "cnn[{extra}]"'
        ) from error
