"""NVIDIA's libraries as tactics, where they are installed: found and called through ctypes."""
