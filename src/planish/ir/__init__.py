"""The graph: values, nodes, symbolic shapes, text, and the checks between passes."""
