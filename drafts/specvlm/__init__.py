"""SpecVLM: the LongSpec block with images made small."""
