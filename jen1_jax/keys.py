"""Random keys by name."""

import zlib

import jax
from jaxtyping import Array, Key


def named_key(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The random stream of `key` with this `name`; a new stream does not change the others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
