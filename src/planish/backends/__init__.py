"""Devices: one folder each; the build finds them through backend.py."""
