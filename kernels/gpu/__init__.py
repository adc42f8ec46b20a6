"""What Triton kernels share: launches, online softmax, ordering."""
