"""Drafts copied from the text itself, by a suffix automaton."""
