"""What the models in JAX and in PyTorch share; it needs no framework but NumPy."""
