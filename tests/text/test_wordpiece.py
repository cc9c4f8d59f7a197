"""Captions become the ids of transformers' BERT tokenizer, cut and padded."""

import json
import string

import numpy as np
import pytest
import tokenizers
import transformers

from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import WordPiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = string.ascii_letters + string.digits + "éüß[],.&!½音"
VOCABULARY = [*SPECIAL, "slow", "piano", "waltz", "##ing", "music"]
VOCABULARY += [piece for character in CHARACTERS for piece in (character, f"##{character}")]
CAPTIONS = [
    "Slow piano WALTZ, 90 bpm & waltzing!",
    "  naïve café; MÜSSEN Straße\tﬁne\n½ ",
    "日本の音楽 music音piano",
    "a [SEP] b [MASK] [UNK] ##ing [cls]",
    "zero\u200bwidth, soft\u00adhyphen, nul\x00 and bell\x07, nb\u00a0space",
    "a" * 101 + " " + "a" * 100,
    "🎹 ☃ — … Ελληνικά",
]


def write(folder, config=None, vocabulary=VOCABULARY):
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


CONFIGS = {
    "no configuration": None,
    "cased": {"do_lower_case": False},
    "accents are kept": {"do_lower_case": True, "strip_accents": False},
    "Chinese characters are not separated": {"tokenize_chinese_chars": False},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_ids_equal_transformers_from_either_file(tmp_path, config):
    reference = transformers.BertTokenizerFast.from_pretrained(write(tmp_path, config))
    expected = [reference(text, split_special_tokens=True).input_ids for text in CAPTIONS]
    assert len(set(map(tuple, expected))) == len(CAPTIONS)
    (tmp_path / "both").mkdir()
    reference.backend_tokenizer.save(str(tmp_path / "both" / "tokenizer.json"))
    for folder in (tmp_path, tmp_path / "both"):
        tokens, lengths = WordPiece(folder, 256)(CAPTIONS)
        for row, length, ids in zip(tokens, lengths, expected, strict=True):
            assert row[:length].tolist() == ids
            assert not row[length:].any()


def test_the_options_of_a_vocabulary_change_its_fingerprint(tmp_path):
    cased, lower = tmp_path / "cased", tmp_path / "lower"
    for folder in (cased, lower):
        folder.mkdir()
        write(folder, {"do_lower_case": folder == lower})
    assert WordPiece(cased, 8).model != WordPiece(lower, 8).model


def test_lengths_in_the_file_are_not_used(tmp_path):
    made = tokenizers.BertWordPieceTokenizer({piece: i for i, piece in enumerate(VOCABULARY)})
    made.enable_truncation(4)
    made.enable_padding(length=4)
    made.save(str(tmp_path / "tokenizer.json"))
    lengths = WordPiece(tmp_path, 16)(["slow", "slow piano waltz slow piano waltz"])[1]
    assert lengths.tolist() == [3, 8]


def test_no_text_has_no_tokens(tmp_path):
    tokens, lengths = WordPiece(write(tmp_path), 8)(["", "  \n", "\u200b", "piano"])
    assert lengths.tolist() == [0, 0, 0, 3]
    assert not tokens[:3].any()


def test_a_long_caption_is_cut_and_keeps_its_separator(tmp_path):
    folder = write(tmp_path)
    caption = "slow piano waltz music"
    exact, short = WordPiece(folder, 6), WordPiece(folder, 5)
    assert not exact.truncated(caption) and short.truncated(caption)
    (whole,), _ = exact([caption])
    (cut,), (length,) = short([caption])
    assert length == 5 and cut.tolist() == [*whole[:4], VOCABULARY.index("[SEP]")]
    reference = transformers.BertTokenizerFast.from_pretrained(folder)
    np.testing.assert_array_equal(reference(caption, truncation=True, max_length=5).input_ids, cut)


def test_a_missing_or_unfit_tokenizer_is_named(tmp_path):
    with pytest.raises(Refusal, match=r"tokenizer\.json or vocab\.txt is missing in"):
        WordPiece(tmp_path, 8)
    write(tmp_path, vocabulary=["a", "b"])
    with pytest.raises(Refusal, match=r"vocab\.txt is not a WordPiece tokenizer: "):
        WordPiece(tmp_path, 8)
    write(tmp_path, vocabulary=[piece for piece in VOCABULARY if piece != "[UNK]"])
    with pytest.raises(Refusal, match=r"vocab\.txt is not a WordPiece tokenizer with an unknown"):
        WordPiece(tmp_path, 8)
    write(tmp_path, {"do_lower_case": "yes"})
    with pytest.raises(Refusal, match=r"vocab\.txt is not a WordPiece tokenizer: "):
        WordPiece(tmp_path, 8)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refusal, match=r"tokenizer\.json is not a WordPiece tokenizer: "):
        WordPiece(tmp_path, 8)
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Refusal, match=r"tokenizer\.json is not a WordPiece tokenizer with"):
        WordPiece(tmp_path, 8)
    words = tokenizers.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")
    tokenizers.Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Refusal, match=r"does not put \[CLS\] before a text"):
        WordPiece(tmp_path, 8)
