"""The matrix product over panels: tiles, codes, threads."""
