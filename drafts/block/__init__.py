"""A Block Transformer as a drafter."""
