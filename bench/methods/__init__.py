"""KV methods compared: as drafters and as caches, per byte."""
