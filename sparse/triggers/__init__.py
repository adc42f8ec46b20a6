"""When a view selects anew, or to stop drafting: one rule a file."""
