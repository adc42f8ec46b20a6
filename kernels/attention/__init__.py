"""Attention over one part of the KV, and the merge of parts."""
