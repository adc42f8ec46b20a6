"""What CPU kernels are made of: compilation, threads, vectors of lanes."""
