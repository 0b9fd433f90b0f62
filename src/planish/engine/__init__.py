"""The engine file: its format, written deterministically and read without trust."""
