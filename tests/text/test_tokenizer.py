"""Captions become the ids of transformers' T5 tokenizer, cut and padded."""

import numpy as np
import pytest
import sentencepiece
import transformers

from jen1_jax.text.vocabulary import train
from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import SentencePiece

CAPTIONS = [
    "Slow piano over warm strings, 90 bpm",
    "fast drums & bass!",
    "  double  spaces — and dashes… ",
    "naïve café ﬁne ½",
    "a guitar (left) and a flute (right)",
    "bright synth arpeggio at 120 bpm in C minor",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train(CAPTIONS, folder / "spiece.model", vocab_size=80)
    return folder


def test_ids_equal_transformers(tmp_path):
    """With a unigram model, which T5's is."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS), model_prefix=str(tmp_path / "spiece"), vocab_size=80,
        hard_vocab_limit=False, character_coverage=1.0, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    tokenizer = SentencePiece(tmp_path, 64)
    reference = transformers.T5Tokenizer.from_pretrained(tmp_path)
    captions = [*CAPTIONS, "an unseen zebra ☃\nin a new line\t日本"]
    tokens, lengths = tokenizer(captions)
    for caption, row, length in zip(captions, tokens, lengths, strict=True):
        assert row[:length].tolist() == reference(caption).input_ids
        assert not row[length:].any()


def test_no_text_has_no_tokens(folder):
    tokens, lengths = SentencePiece(folder, 8)(["", "  \n", "piano"])
    assert lengths.tolist()[:2] == [0, 0] and lengths[2] > 1
    assert not tokens[:2].any()
    assert SentencePiece(folder, 8)([])[0].shape == (0, 8)


def test_a_long_caption_is_cut_and_keeps_its_end(folder):
    whole = SentencePiece(folder, 64)
    (ids,), (length,) = whole(CAPTIONS[:1])
    assert ids[length - 1] == 1 and not whole.truncated(CAPTIONS[0])

    exact, short = (
        SentencePiece(folder, int(length)),
        SentencePiece(folder, int(length) - 1),
    )
    assert not exact.truncated(CAPTIONS[0])
    np.testing.assert_array_equal(exact(CAPTIONS[:1])[0][0], ids[:length])
    assert short.truncated(CAPTIONS[0])
    np.testing.assert_array_equal(short(CAPTIONS[:1])[0][0], [*ids[: length - 2], 1])


def test_training_depends_only_on_the_set_of_captions(folder, tmp_path):
    train([*reversed(CAPTIONS), CAPTIONS[0], ""], tmp_path / "again.model", vocab_size=80)
    assert (tmp_path / "again.model").read_bytes() == (folder / "spiece.model").read_bytes()
    train([*CAPTIONS, "an oboe"], tmp_path / "other.model", vocab_size=80)
    assert (tmp_path / "other.model").read_bytes() != (folder / "spiece.model").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"again.model", "other.model"}


def test_words_that_captions_share_are_one_piece_each(tmp_path):
    words = ("slow", "fast", "piano", "cello", "major", "minor")
    captions = [
        f"{pace} {what} in {key}" for pace in words[:2] for what in words[2:4] for key in words[4:]
    ]
    train(captions, tmp_path / "spiece.model", vocab_size=64)
    lengths = SentencePiece(tmp_path, 16)(captions)[1]
    assert set(lengths.tolist()) == {4 + 1}


@pytest.mark.parametrize("captions", [[], [""], ["a"], ["slow piano"] * 3])
def test_few_captions_give_a_small_vocabulary(tmp_path, captions):
    """Its pieces are the special ones and parts of the captions."""
    train(captions, tmp_path / "spiece.model", vocab_size=512)
    tokenizer = SentencePiece(tmp_path, 16)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    words = "".join(
        f"▁{word}" for word in " ".join([*captions, "music" if not any(captions) else ""]).split()
    )
    found = [pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size())]
    assert (
        found
        and len(set(found)) == len(found) == tokenizer.vocab_size - 3
        and all(piece in words for piece in found)
    )
    tokens, lengths = tokenizer([*captions, "slow"])
    assert tokens.max() < tokenizer.vocab_size and lengths[-1] > 1


def test_too_many_characters_for_the_vocabulary_are_refused(tmp_path):
    with pytest.raises(Refusal, match=r"No vocabulary of 10 pieces.*text\.vocab_size"):
        train(CAPTIONS, tmp_path / "spiece.model", vocab_size=10)
    assert not any(tmp_path.iterdir())


def test_a_missing_or_damaged_model_is_named(tmp_path):
    with pytest.raises(Refusal, match=f"spiece.model is missing in {tmp_path}"):
        SentencePiece(tmp_path, 8)
    (tmp_path / "spiece.model").write_bytes(b"not a model")
    with pytest.raises(Refusal, match=r"spiece\.model is not a sentencepiece model"):
        SentencePiece(tmp_path, 8)
