"""Choices of pages that stay on a device, at fixed addresses."""
