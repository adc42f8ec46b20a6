"""A model and its tokenizer from files."""
