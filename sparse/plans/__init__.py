"""Which heads need all of a text: plans that were measured once for a model."""
