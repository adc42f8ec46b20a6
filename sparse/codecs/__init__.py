"""Copies of keys and values in few bits."""
