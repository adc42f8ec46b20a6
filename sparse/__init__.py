"""Which keys a pass reads: one method a file."""
