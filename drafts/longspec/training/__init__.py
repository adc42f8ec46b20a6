"""Training of drafters: data, teacher, trainer."""
