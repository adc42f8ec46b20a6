"""A model as the loop sees it: one call, packed weights, fused layers."""
