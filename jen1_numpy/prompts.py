"""Prompts as the embeddings that sampling needs."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class Prompts(NamedTuple):
    """What each piece should sound like, and what not: embeddings and numbers of tokens.

    Arrays are a framework's. 0 tokens mean no text.
    """

    text: Float[Any, "pieces tokens features"]
    lengths: Int[Any, " pieces"]
    negative: Float[Any, "pieces tokens features"]
    negative_lengths: Int[Any, " pieces"]


@runtime_checkable
class Encoder(Protocol):
    """A text encoder, with the tokenizer that it uses."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed(self, texts: list[str]) -> tuple[Any, Any]:
        """Embeddings [texts, tokens, features] of texts, and their numbers of tokens [texts]."""


def embed_prompts(
    encoder: Encoder, prompts: Sequence[str], negative_prompt: str, guided: bool
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
    embedding, lengths = encoder.embed(texts)
    longest = encoder.tokenizer.max_length
    for text, length in zip(texts, lengths.tolist(), strict=True):
        if length == longest and encoder.tokenizer.truncated(text):
            log.warning(
                "The prompt %r is longer than %d tokens: the rest of it is cut off.", text, longest
            )
    rows = np.array([texts.index(text) for text in wanted])
    own, negative = rows[: len(prompts)], np.repeat(rows[-1:], len(prompts))
    return Prompts(embedding[own], lengths[own], embedding[negative], lengths[negative])
