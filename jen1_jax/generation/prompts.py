"""Prompts as the embeddings that sampling needs."""

import logging
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jen1_jax.text.prompts import TextEncoder
from jen1_numpy.errors import Refusal

log = logging.getLogger(__name__)


class Prompts(NamedTuple):
    """What each piece should sound like, and what not: embeddings and numbers of tokens.

    0 tokens mean no text.
    """

    text: Float[Array, "pieces tokens features"]
    lengths: Int[np.ndarray | Array, " pieces"]
    negative: Float[Array, "pieces tokens features"]
    negative_lengths: Int[np.ndarray | Array, " pieces"]


def embed_prompts(
    encoder: TextEncoder, params: PyTree, prompts: list[str], negative_prompt: str, guided: bool
) -> Prompts:
    """The embeddings of the pieces' prompts and of the negative prompt that they share.

    Each different text is embedded once. Without guidance the negative prompt is not embedded: its
    rows repeat the last prompt, and nothing reads them. A text beyond the encoder's maximum length
    is cut with a warning; raises `Refusal` for a prompt that is not a string.
    """
    for text in prompts:
        if not isinstance(text, str):
            raise Refusal(f"{text!r} is not a prompt; give text.")
    if any(not prompt.strip() for prompt in prompts):
        log.warning("The prompt is empty: the music is unconditional.")
    if negative_prompt.strip() and not guided:
        log.warning("Without guidance (scale 1) the negative prompt has no effect.")
    wanted = [text if text.strip() else "" for text in [*prompts, *[negative_prompt] * guided]]
    texts = list(dict.fromkeys(wanted))
    embedding, lengths = _embed(encoder, params, texts)
    for text, length in zip(texts, lengths, strict=True):
        if length == encoder.max_length and encoder.tokenizer.truncated(text):
            log.warning(
                "The prompt %r is longer than %d tokens: the rest of it is cut off.",
                text,
                encoder.max_length,
            )
    rows = np.array([texts.index(text) for text in wanted])
    own, negative = rows[: len(prompts)], np.repeat(rows[-1:], len(prompts))
    return Prompts(embedding[own], lengths[own], embedding[negative], lengths[negative])


def _embed(
    encoder: TextEncoder, params: PyTree, texts: list[str]
) -> tuple[Float[Array, "texts tokens features"], Int[np.ndarray, " texts"]]:
    """Embeddings of texts and their numbers of tokens."""
    if not encoder.trainable:
        embedding, lengths = encoder.embed(texts)
        return jnp.asarray(embedding, jnp.float32), lengths
    tokens, lengths = encoder.tokenize(texts)
    apply = lambda *row: encoder.module.apply({"params": params}, *map(jnp.asarray, row))[0]
    # One by one, so that a piece's embedding does not depend on the other texts.
    rows = [apply(tokens[row, None], lengths[row, None]) for row in range(len(texts))]
    return jnp.stack(rows), lengths
