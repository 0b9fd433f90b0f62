"""Running engines on NVIDIA GPUs with nothing but the driver."""
