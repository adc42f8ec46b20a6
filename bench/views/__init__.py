"""Sparse views compared on a text: mass, overlap, acceptance."""
