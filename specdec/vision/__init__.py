"""Images and video frames: what a model's own code makes of them, as a Prompt."""
