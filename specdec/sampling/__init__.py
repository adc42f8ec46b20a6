"""The law: trees, noise, verification, processors. No model, no cache."""
