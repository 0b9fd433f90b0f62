"""Importers: a model of some framework in, a graph out."""
