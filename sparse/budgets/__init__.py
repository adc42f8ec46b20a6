"""How many of a view's tokens each layer and each KV head reads: one rule a file."""
