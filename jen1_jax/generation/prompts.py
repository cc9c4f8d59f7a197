"""Prompts as the embeddings of a text encoder, frozen or trained with the model."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jen1_jax.text.prompts import TextEncoder
from jen1_numpy.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptEncoder:
    """A text encoder with its parameters, which are those of the model if it is trained."""

    text: TextEncoder
    params: PyTree

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    def embed(
        self, texts: list[str]
    ) -> tuple[Float[Array, "texts tokens features"], Int[np.ndarray, " texts"]]:
        """Embeddings of texts and their numbers of tokens."""
        if not self.text.trainable:
            embedding, lengths = self.text.embed(texts)
            return jnp.asarray(embedding, jnp.float32), lengths
        tokens, lengths = self.text.tokenize(texts)
        apply = lambda *row: self.text.module.apply(
            {"params": self.params}, *map(jnp.asarray, row)
        )[0]
        # One by one, so that a piece's embedding does not depend on the other texts.
        rows = [apply(tokens[row, None], lengths[row, None]) for row in range(len(texts))]
        return jnp.stack(rows), lengths
