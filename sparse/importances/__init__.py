"""How important tokens are, from the attention that they get: one importance a file."""
