"""Finds the folder of a text encoder by its path or by its name on the Hugging Face hub."""

import os
from pathlib import Path

from jen1_jax.text.encoders import ENCODERS, read_config
from jen1_numpy.errors import Refusal
from jen1_numpy.folder import weight_files


def find(encoder: str) -> Path:
    """The folder `encoder`, or the local copy of that hub name, which is downloaded if missing."""
    if os.path.isdir(encoder):
        return Path(encoder)
    if encoder.startswith((".", "/", "~")) or encoder.count("/") > 1:
        raise Refusal(
            f"The text encoder's folder {encoder} does not exist:"
            " give a folder with a FLAN-T5 or a BERT, or a hub name."
        )
    import huggingface_hub

    tokenizers = {name for kind in ENCODERS.values() for name in kind.tokenizer_files}
    weights = ("model*.safetensors", "model.safetensors.index.json")
    files = ["config.json", *weights, *sorted(tokenizers), "tokenizer_config.json"]
    missing, reason = ["config.json"], ""
    for local in (True, False):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    encoder, allow_patterns=files, local_files_only=local
                )
            )
        except Exception as error:  # its type depends on the release of the hub's client
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            continue
        missing = _missing(folder)
        if not missing:
            return folder
        reason = "it has no such file, or there is no connection"
    raise Refusal(
        f"The text encoder {encoder!r} is not a folder, the local Hugging Face cache lacks its"
        f" {', '.join(missing)}, and the hub did not give it ({reason}): on a machine with a"
        f" connection run `hf download {encoder}`, copy the folder here and give its path."
    )


def encoder_files(folder: Path) -> list[str]:
    """Names of the files in `folder` that its encoder is read from."""
    names = ["config.json", "model.safetensors.index.json", *weight_files(folder)]
    names += [*read_config(folder).tokenizer_files, "tokenizer_config.json"]
    return [name for name in names if (folder / name).is_file()]


def _missing(folder: Path) -> list[str]:
    """Names of the files that an encoder needs and `folder` lacks."""
    if not (folder / "config.json").is_file():
        return ["config.json"]
    lacking = [name for name in weight_files(folder) if not (folder / name).is_file()]
    tokenizer_files = read_config(folder).tokenizer_files
    if not any((folder / name).is_file() for name in tokenizer_files):
        lacking.append(" or ".join(tokenizer_files))
    return lacking
