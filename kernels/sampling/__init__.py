"""Noise, warped scores, choosing and verifying tokens on a device."""
