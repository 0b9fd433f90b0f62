"""From regions to kernels: the tactic contract, selection, measurement and the timing cache."""
