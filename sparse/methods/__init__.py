"""One file for each view by name: its options, and what it is made of."""
