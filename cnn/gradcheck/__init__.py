"""Gradient check: every backward against differences of its forward, with an explanation of what is wrong.

For a layer y = f(x; w) and a random upstream gradient dy, let L = sum of dy * y. Backward claims dL/dx and
dL/dw. Along a direction v, which is one entry or random in all of them,

    L(x + h v) - L(x - h v)
    -----------------------  =  sum of v * dL/dx  +  O(h^2),        h = 1e-5, float64
              2 h

``check_layer`` compares both sides for the input and for every parameter; ``check_network`` does it for each
layer of a network, with the activations that the layer really receives, for the loss, and for the whole.

    report = check_network(network, images, labels)     # network.build(..., dtype=np.float64)
    print(report); report.ok; report.to_json()
"""

from cnn.gradcheck.layer import check_layer
from cnn.gradcheck.network import check_loss, check_network
from cnn.gradcheck.report import BUG, KINK, OK, ROUNDING, Entry, Report

__all__ = [
    "BUG",
    "KINK",
    "OK",
    "ROUNDING",
    "Entry",
    "Report",
    "check_layer",
    "check_loss",
    "check_network",
]
