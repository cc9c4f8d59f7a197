"""What the models in JAX and in PyTorch share; it needs neither of them."""
