"""The fast wing: the same network, planned once and run by compiled kernels on all cores."""

from cnn.backend import check_environment

check_environment()  # before any module of the wing imports Numba, which ends with a traceback
