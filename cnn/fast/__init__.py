"""The fast wing: the same network, planned once and run by compiled kernels on all cores."""
