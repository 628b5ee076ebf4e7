"""Convolutional networks from scratch: NumPy to read, Numba to run, every gradient explained."""

from cnn.backend import current_backend, set_backend, set_threads, use_backend
from cnn.network import Network

__version__ = "0.1.0"
__all__ = ["Network", "__version__", "current_backend", "set_backend", "set_threads", "use_backend"]
