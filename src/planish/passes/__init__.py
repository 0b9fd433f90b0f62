"""Passes: one file each; pipeline.py holds their order, rules/ the rewrite rules."""
