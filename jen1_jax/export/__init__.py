"""Runs to PyTorch, and back.

The PyTorch side is the package `jen1_torch`. It is copied into every export together with
`jen1_numpy`, which both sides share, and knows nothing of this package. Names and layouts of
parameters differ by `names` alone.
"""
