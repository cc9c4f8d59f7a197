"""Captions to token ids: sentencepiece for T5, WordPiece for BERT."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import sentencepiece
import tokenizers
from jaxtyping import Int32

from jen1_numpy.errors import Refusal
from jen1_numpy.folder import read_json


class Tokenizer(ABC):
    """Captions to int32 ids [captions, max_length], padded with 0.

    A caption that is too long is cut and keeps its last id, which marks the end; one without text
    has length 0. Special tokens such as "</s>" or "[SEP]" in a caption are treated as text.
    """

    files: ClassVar[tuple[str, ...]]  # a model's folder holds one of them; the first is preferred
    model: bytes  # all that the ids depend on besides `max_length`
    vocab_size: int
    max_length: int

    @abstractmethod
    def ids(self, caption: str) -> list[int]:
        """All ids of a caption with the special ones, or none if it has no text."""

    def __call__(
        self, captions: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "captions tokens"], Int32[np.ndarray, " captions"]]:
        """The ids and the length of each row."""
        tokens = np.zeros((len(captions), self.max_length), np.int32)
        lengths = np.zeros(len(captions), np.int32)
        for row, ids in enumerate(map(self.ids, captions)):
            if len(ids) > self.max_length:
                ids = [*ids[: self.max_length - 1], ids[-1]]
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        return tokens, lengths

    def truncated(self, caption: str) -> bool:
        """Whether the end of `caption` does not fit into `max_length`."""
        return len(self.ids(caption)) > self.max_length


class SentencePiece(Tokenizer):
    """The tokenizer in a folder's spiece.model, with T5's special ids (0 padding, 1 end)."""

    files = ("spiece.model",)

    def __init__(self, folder: Path, max_length: int):
        path = _find(folder, self.files)
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
        self.vocab_size = self._pieces.get_piece_size()

    def ids(self, caption: str) -> list[int]:
        pieces = self._pieces.encode(caption)
        return [*pieces, self._pieces.eos_id()] if pieces else []


class WordPiece(Tokenizer):
    """The tokenizer in a folder's tokenizer.json, or made from its vocab.txt as Hugging Face does.

    With vocab.txt, tokenizer_config.json says whether letters are lower-cased, accents are removed
    and Chinese characters are separated; it may be missing.
    """

    files = ("tokenizer.json", "vocab.txt")

    def __init__(self, folder: Path, max_length: int):
        path = _find(folder, self.files)
        self.max_length = max_length
        try:
            if path.name == "tokenizer.json":
                self.model = path.read_bytes()
                self._pieces = tokenizers.Tokenizer.from_buffer(self.model)
            else:
                vocabulary, options = path.read_text(encoding="utf-8"), _options(folder)
                self.model = (vocabulary + json.dumps(options, sort_keys=True)).encode()
                ids = {piece: i for i, piece in enumerate(vocabulary.rstrip("\n").split("\n"))}
                made = tokenizers.BertWordPieceTokenizer(ids, **options)
                self._pieces = tokenizers.Tokenizer.from_str(made.to_str())
        except Refusal:
            raise
        except Exception as error:  # the library raises no narrower type
            raise Refusal(f"{path} is not a WordPiece tokenizer: {error}.") from None
        # A file may hold a length to which its own program cuts and pads.
        self._pieces.no_truncation()
        self._pieces.no_padding()
        self._pieces.encode_special_tokens = True
        vocab = self._pieces.get_vocab()
        self.vocab_size = max(vocab.values(), default=-1) + 1
        wordpiece = isinstance(self._pieces.model, tokenizers.models.WordPiece)
        if not wordpiece or self._pieces.model.unk_token not in vocab:
            raise Refusal(
                f"{path} is not a WordPiece tokenizer with an unknown token:"
                " it belongs to another kind of model."
            )
        if self._pieces.encode("").tokens != ["[CLS]", "[SEP]"]:
            raise Refusal(
                f"{path} does not put [CLS] before a text and [SEP] after it, which BERT needs:"
                " it belongs to another kind of model."
            )

    def ids(self, caption: str) -> list[int]:
        ids = self._pieces.encode(caption).ids
        return ids if len(ids) > 2 else []


def _options(folder: Path) -> dict[str, bool | None]:
    """What tokenizer_config.json says about the normalisation of text, or BERT's defaults."""
    path = folder / "tokenizer_config.json"
    values = read_json(path) if path.is_file() else {}
    return {
        "lowercase": values.get("do_lower_case", True),
        "strip_accents": values.get("strip_accents"),
        "handle_chinese_chars": values.get("tokenize_chinese_chars", True),
    }


def _find(folder: Path, files: Sequence[str]) -> Path:
    """The first of `files` that the folder holds."""
    for name in files:
        if (folder / name).is_file():
            return folder / name
    raise Refusal(
        f"{' or '.join(files)} is missing in {folder}:"
        " copy the tokenizer of this text encoder there."
    )
