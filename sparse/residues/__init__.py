"""What stands for tokens that are not read: one residue a file."""
