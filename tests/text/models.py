"""Loads saved encoders, and computes in PyTorch what they must give."""

import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import unflatten_dict

from jen1_jax.text import encoders

LENGTHS = [40, 1, 150]  # 150 tokens are more than the largest distance with a bucket of its own


def load(folder):
    """The layout and the float32 parameters of a saved encoder."""
    config, weights = encoders.load(folder)
    return config, unflatten_dict(
        {path: jnp.asarray(weight, jnp.float32) for path, weight in weights}
    )


def random_batch():
    """Tokens [3, 150] below 1000 and their lengths."""
    tokens = np.random.default_rng(0).integers(3, 1000, (len(LENGTHS), max(LENGTHS)))
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(LENGTHS, jnp.int32)


def reference(model, tokens, lengths):
    """The last layer's states of a model of transformers, zero from `lengths` on."""
    mask = np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None]
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(np.asarray(tokens), dtype=torch.long),
            attention_mask=torch.tensor(mask),
        )
    return out.last_hidden_state.numpy() * mask[..., None]
