"""Training of SpecVLM: pairs of images and texts, lessons with images, trainer."""
