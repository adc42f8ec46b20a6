"""Keys and values: what is committed and what is staged."""
