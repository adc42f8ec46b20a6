"""Maths that several methods share: tensors in, tensors out, no store and no model."""
