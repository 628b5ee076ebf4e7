"""What kernels are written with: compilation and its cache, task tables, vectors."""
