"""From regions to Triton source, and from that to cubins."""
