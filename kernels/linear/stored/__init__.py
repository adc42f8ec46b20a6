"""Weights in the blocks of a GGUF, as stored, times activations in 8 bits."""
