"""Convolutional networks from scratch: NumPy to read, Numba to run, every gradient explained."""
