"""NVIDIA GPUs: kernels generated as Triton functions, compiled ahead to cubins."""
