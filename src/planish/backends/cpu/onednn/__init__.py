"""oneDNN as a source of CPU kernels: bound by ctypes from the `onednn-cpu-gomp` wheel.

`library` loads it, `problem` describes one convolution or matrix product as data, `primitives`
turns a problem into oneDNN primitives, `kernel` runs them for an engine, and `lower` (build side
only) turns a region into a problem. The tactic is backends/cpu/tactics/onednn.py.
"""
