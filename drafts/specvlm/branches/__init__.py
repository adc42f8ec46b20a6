"""Branches: ways to make an image small, one a file."""
