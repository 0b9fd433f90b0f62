"""Running engines on NVIDIA GPUs with the driver alone (cuda-bindings)."""
