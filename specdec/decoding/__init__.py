"""The loop: from a request to text, by rounds."""
