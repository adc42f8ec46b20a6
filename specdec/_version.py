"""The version, read by the build and by `specdec env`."""

__version__ = "0.1.0"
