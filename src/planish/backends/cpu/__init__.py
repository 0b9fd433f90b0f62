"""The CPU backend: generated C, oneDNN, and the machine they run on."""
