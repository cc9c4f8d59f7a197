"""Captions to token ids: sentencepiece with T5's special ids (0 padding, 1 end, 2 unknown)."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Int32

from jen1_jax.errors import Refusal
from jen1_jax.files import whole_file


class Tokenizer:
    """Captions to int32 ids [captions, max_length].

    Each ends with the end-of-sequence id and is padded with 0. A caption that is too long is cut
    and keeps its end-of-sequence id; one without text has length 0. Special pieces such as "</s>"
    in a caption are treated as text.
    """

    def __init__(self, path: str | Path, max_length: int):
        path = Path(path)
        if not path.is_file():
            raise Refusal(
                f"{path.name} is missing in {path.parent}:"
                " copy the sentencepiece model of this text encoder there."
            )
        self.model = path.read_bytes()
        self.max_length = max_length
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except RuntimeError as error:
            raise Refusal(f"{path} is not a sentencepiece model: {error}.") from None
        if self._pieces.eos_id() < 0:
            raise Refusal(
                f"{path} has no end-of-sequence piece, which T5 needs:"
                " it belongs to another kind of model."
            )

    @property
    def vocab_size(self) -> int:
        return self._pieces.get_piece_size()

    def __call__(
        self, captions: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "captions tokens"], Int32[np.ndarray, " captions"]]:
        """The ids and the length of each row."""
        tokens = np.zeros((len(captions), self.max_length), np.int32)
        lengths = np.zeros(len(captions), np.int32)
        for row, pieces in enumerate(self._pieces.encode(list(captions))):
            if pieces:
                ids = [*pieces[: self.max_length - 1], self._pieces.eos_id()]
                tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        return tokens, lengths

    def truncated(self, caption: str) -> bool:
        """Whether the end of `caption` does not fit into `max_length`."""
        return len(self._pieces.encode(caption)) > self.max_length - 1


def train(captions: Iterable[str], path: str | Path, vocab_size: int) -> None:
    """Writes a sentencepiece BPE model (Sennrich et al. 2016) of the captions to `path`.

    It has T5's special ids. Words that many captions share become one piece each. The same set of
    captions gives the same bytes. `vocab_size` is a maximum: few captions give fewer pieces.
    """
    distinct = sorted({" ".join(caption.split()) for caption in captions} - {""})
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # Training without captions works too, and needs some vocabulary.
            sentence_iterator=iter(distinct or ["music"]),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            max_sentence_length=1_000_000,
            num_threads=1,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rsplit("] ", 1)[-1].rstrip(". ")
        raise Refusal(
            f"No vocabulary of {vocab_size} pieces can be built from {len(distinct)} captions"
            f" ({reason}): raise text.vocab_size."
        ) from None
    with whole_file(path) as partial:
        partial.write_bytes(model.getvalue())
