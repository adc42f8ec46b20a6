"""For users of transformers: the call, its inputs, and batches that are asked as one."""
