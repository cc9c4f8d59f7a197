"""Prompts to token ids: sentencepiece for T5, WordPiece for BERT."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import sentencepiece
import tokenizers
import torch
from torch import Tensor

from jen1_numpy.errors import Refusal
from jen1_torch.files import read_json


class Tokenizer(ABC):
    """Prompts to int64 ids [prompts, max_length], padded with 0.

    A prompt that is too long is cut and keeps its last id, which marks the end; one without text
    has length 0. Special tokens such as "</s>" or "[SEP]" in a prompt are treated as text.
    """

    files: ClassVar[tuple[str, ...]]  # a model's folder holds one of them; the first is preferred
    vocab_size: int
    max_length: int

    @abstractmethod
    def ids(self, prompt: str) -> list[int]:
        """All ids of a prompt with the special ones, or none if it has no text."""

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The ids [prompts, max_length] and the length of each row [prompts]."""
        tokens = torch.zeros(len(prompts), self.max_length, dtype=torch.long)
        lengths = torch.zeros(len(prompts), dtype=torch.long)
        for row, ids in enumerate(map(self.ids, prompts)):
            if len(ids) > self.max_length:
                ids = [*ids[: self.max_length - 1], ids[-1]]
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            lengths[row] = len(ids)
        return tokens, lengths

    def truncated(self, prompt: str) -> bool:
        """Whether the end of `prompt` does not fit into `max_length`."""
        return len(self.ids(prompt)) > self.max_length


class SentencePiece(Tokenizer):
    """The tokenizer in a folder's spiece.model, with T5's special ids (0 padding, 1 end)."""

    files = ("spiece.model",)

    def __init__(self, folder: Path, max_length: int):
        path = _find(folder, self.files)
        self.max_length = max_length
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        except RuntimeError as error:
            raise Refusal(f"{path} is not a sentencepiece model: {error}.") from None
        if self._pieces.eos_id() < 0:
            raise Refusal(
                f"{path} has no end-of-sequence piece, which T5 needs:"
                " it belongs to another kind of model."
            )
        self.vocab_size = self._pieces.get_piece_size()

    def ids(self, prompt: str) -> list[int]:
        pieces = self._pieces.encode(prompt)
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
                self._pieces = tokenizers.Tokenizer.from_buffer(path.read_bytes())
            else:
                vocabulary = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
                ids = {piece: i for i, piece in enumerate(vocabulary)}
                made = tokenizers.BertWordPieceTokenizer(ids, **_options(folder))
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

    def ids(self, prompt: str) -> list[int]:
        ids = self._pieces.encode(prompt).ids
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
