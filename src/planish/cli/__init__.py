"""The command line: one file a verb, found by discovery (see main.py)."""
