"""The runtime: memory, native code, contexts, and the engine that users call."""
