"""Tensors in, tensors out: one op a file, each with its plain PyTorch twin."""
