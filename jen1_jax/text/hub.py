"""Finds the folder of a text encoder by its path or by its name on the Hugging Face hub."""

import os
from pathlib import Path

from jen1_jax.errors import Refusal
from jen1_jax.text import t5


def find(encoder: str) -> Path:
    """The folder `encoder`, or the local copy of that hub name, which is downloaded if missing."""
    if os.path.isdir(encoder):
        return Path(encoder)
    if encoder.startswith((".", "/", "~")) or encoder.count("/") > 1:
        raise Refusal(
            f"The text encoder's folder {encoder} does not exist:"
            " give a folder with a FLAN-T5, or a hub name."
        )
    import huggingface_hub

    files = ["config.json", "model*.safetensors", "model.safetensors.index.json", "spiece.model"]
    missing, reason = ["config.json", "model.safetensors", "spiece.model"], ""
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
        required = ("config.json", *t5.weight_files(folder), "spiece.model")
        missing = [name for name in required if not (folder / name).is_file()]
        if not missing:
            return folder
        reason = "it has no such file, or there is no connection"
    raise Refusal(
        f"The text encoder {encoder!r} is not a folder, the local Hugging Face cache lacks its"
        f" {', '.join(missing)}, and the hub did not give it ({reason}): on a machine with a"
        f" connection run `hf download {encoder}`, copy the folder here and give its path."
    )
