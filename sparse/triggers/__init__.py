"""When to select anew, or to stop drafting: one trigger a file."""
