"""Scores of pages, and the choice of the best."""
