"""Documents that were read apart, made one text (CacheBlend, arXiv 2405.16444)."""
