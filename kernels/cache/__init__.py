"""Writing keys and values into the cache, in full and in few bits."""
