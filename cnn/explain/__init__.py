"""The explorable page: one network, one image, every number and the sum that made it."""

from cnn.explain.collect import Node, collect
from cnn.explain.page import build_page

__all__ = ["Node", "build_page", "collect"]
