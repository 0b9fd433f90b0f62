"""C source for kernels and their driver, and its compilation."""
