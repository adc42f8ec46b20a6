"""One pass: what it is given, and what its attention reads."""
