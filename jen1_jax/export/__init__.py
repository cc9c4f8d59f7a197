"""Runs to PyTorch, and back.

The PyTorch side is the package `jen1_torch`, which is copied into every export and knows nothing of
this one. Names and layouts of parameters differ by `names` alone.
"""
