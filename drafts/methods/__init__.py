"""One file for each drafter by name: its options, and what it is made of."""
