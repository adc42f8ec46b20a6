"""What methods have measured of a model, once, and kept in a file: one measure a file."""
