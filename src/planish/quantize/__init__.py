"""Lower precision: calibration of activations, and the rewriting of the graph to integers."""
