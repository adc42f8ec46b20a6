"""Who proposes: one drafter a file."""
