"""The toy that sees: pictures made here, and a tower trained on them for the demo model."""
