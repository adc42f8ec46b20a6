"""Every op checked against its plain twin, and timed."""
