"""JEN-1 in PyTorch: the networks, the samplers and generation, without JAX."""
