"""Decoding with keys and values behind a link: passes by width, and texts by drafter."""
