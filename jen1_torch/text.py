"""Prompts as the embeddings that the U-Net attends to."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from jen1_numpy.errors import Refusal
from jen1_numpy.folder import read_json
from jen1_numpy.tokenizer import SentencePiece, Tokenizer, WordPiece
from jen1_torch.t5 import T5Encoder


class TextEncoder:
    """A tokenizer and a network, which reads the texts one by one, without padding.

    So a text's embedding does not depend on the other texts.
    """

    def __init__(self, tokenizer: Tokenizer, module: nn.Module, features: int):
        self.tokenizer, self.module, self.features = tokenizer, module, features

    def states(self, tokens: Tensor) -> Tensor:
        """Tokens [1, tokens] to their states [1, tokens, features]."""
        raise NotImplementedError

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Float32 embeddings [texts, max_length, features] and each text's number of tokens.

        Embeddings are zero beyond that number, which is 0 for a text without words.
        """
        tokens, lengths = (torch.from_numpy(array).long() for array in self.tokenizer(texts))
        device = next(self.module.parameters()).device
        embedding = torch.zeros(*tokens.shape, self.features, device=device)
        for row, length in enumerate(lengths.tolist()):
            if length:
                embedding[row, :length] = self.states(tokens[row : row + 1, :length].to(device))[0]
        return embedding, lengths.to(device)


class TrainedText(TextEncoder):
    """The small T5 encoder that is trained with the U-Net, with its tokenizer."""

    def __init__(self, tokenizer: SentencePiece, module: T5Encoder):
        super().__init__(tokenizer, module, module.token.embedding_dim)

    def states(self, tokens: Tensor) -> Tensor:
        return self.module(tokens, torch.tensor([tokens.shape[1]], device=tokens.device))


class FrozenText(TextEncoder):
    """A pretrained FLAN-T5 or BERT encoder, through transformers; it is not trained.

    `source` is its folder, or its name on the Hugging Face hub. Embeddings are rounded to float16,
    as they were in training. Raises `Refusal` where the encoder cannot be found or used.
    """

    def __init__(self, source: str, max_length: int, dtype: str):
        if dtype not in ("float32", "bfloat16"):  # T5 overflows in float16
            raise Refusal(
                f"A text encoder cannot be computed in {dtype!r}; use float32 or bfloat16."
            )
        folder = _folder(source)
        kind = read_json(folder / "config.json").get("model_type")
        if kind not in KINDS:
            raise Refusal(
                f"{folder / 'config.json'} has model_type {kind!r}, but only"
                f" {', '.join(map(repr, KINDS))} are supported as text encoders."
            )
        name, tokenizer, options = KINDS[kind]
        tokenizer = tokenizer(folder, max_length)
        module = _pretrained(name, folder, dtype=getattr(torch, dtype), **options)
        super().__init__(tokenizer, module, module.config.hidden_size)
        positions = getattr(module.config, "max_position_embeddings", max_length)
        if max_length > positions:
            raise Refusal(
                f"The maximum length is {max_length} tokens, but the BERT in {folder} has positions"
                f" for {positions}."
            )
        if tokenizer.vocab_size > module.config.vocab_size:
            raise Refusal(
                f"The tokenizer of the text encoder {source!r} has {tokenizer.vocab_size} pieces,"
                f" its embedding only {module.config.vocab_size}: they belong to different models."
            )

    def states(self, tokens: Tensor) -> Tensor:
        return self.module(input_ids=tokens).last_hidden_state.half()


# The class of transformers, our tokenizer, and the options of the class, by `model_type`.
KINDS = {
    "t5": ("T5EncoderModel", SentencePiece, {}),
    "mt5": ("T5EncoderModel", SentencePiece, {}),
    "bert": ("BertModel", WordPiece, {"add_pooling_layer": False}),
}


def _pretrained(name: str, folder: Path, **options) -> nn.Module:
    import transformers  # slow to import, and only a frozen encoder needs it

    # It reports weights of the pooler, which nobody needs here, as unexpected.
    reports = transformers.logging
    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        module, found = getattr(transformers, name).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # transformers raises several types
        reason = str(error).strip().split("\n")[0]
        raise Refusal(
            f"The text encoder in {folder} cannot be loaded ({reason}): copy or download it again."
        ) from None
    finally:
        reports.set_verbosity(verbosity)
        if bars:
            reports.enable_progress_bar()
    if missing := found["missing_keys"]:  # which transformers replaces by random numbers
        raise Refusal(
            f"{folder} has no weight {min(missing)!r}: it does not hold the encoder that its"
            " config.json describes."
        )
    return module.requires_grad_(False)


def _folder(source: str) -> Path:
    """The folder `source`, or the local copy of that hub name, which is downloaded if missing."""
    if os.path.isdir(source):
        return Path(source)
    import huggingface_hub

    names = ["spiece.model", "tokenizer.json", "vocab.txt", "tokenizer_config.json"]
    weights = ["model*.safetensors", "model.safetensors.index.json"]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                source, allow_patterns=["config.json", *weights, *names]
            )
        )
    except Exception as error:  # its type depends on the release of the hub's client
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise Refusal(
            f"The text encoder {source!r} is not a folder, and the Hugging Face hub did not give it"
            f" ({reason}): on a machine with a connection run `hf download {source}`, copy the"
            " folder here and give its path."
        ) from None
