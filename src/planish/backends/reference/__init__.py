"""The numpy reference as a backend: the oracle, and the declared fallback of any region."""
