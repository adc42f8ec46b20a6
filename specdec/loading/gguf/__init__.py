"""GGUF files: read where they lie, compared with the model completely, used or refused by name."""
