"""The vocabulary of a text encoder that is trained with the model."""

import io
from collections.abc import Iterable

import sentencepiece

from jen1_jax.files import AnyPath, whole_file
from jen1_numpy.errors import Refusal


def train(captions: Iterable[str], path: AnyPath, vocab_size: int) -> None:
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
