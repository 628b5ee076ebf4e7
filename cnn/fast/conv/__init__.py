"""Convolutions: direct, as dot products, in panels, pointwise and by Winograd, one file a form."""
