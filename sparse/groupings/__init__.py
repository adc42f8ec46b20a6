"""Groups of tokens of uneven size that are chosen together: one grouping a file."""
