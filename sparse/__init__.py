"""Which keys a pass reads: one scorer a file, and the view that composes it with a sharing plan."""
