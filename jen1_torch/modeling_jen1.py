"""JEN-1 in PyTorch: a text-to-music model that loads from a folder or from the hub.

    model = Jen1.from_pretrained("FOLDER or hub name", device="cuda", dtype=torch.float16)
    audio = model.generate("slow piano", seconds=10)     # float32 [samples, 2], model.sample_rate

`model.unet`, `model.autoencoder` and, where it was trained with them, `model.text` are ordinary
modules. Names and shapes of their parameters are those of the files. `save_pretrained` writes a
folder that `from_pretrained` and `jen1 import torch` read.
"""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, save_torch_state_dict, snapshot_download
from torch import nn

import jen1_numpy
import jen1_torch
from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import SentencePiece
from jen1_torch.autoencoder import Autoencoder
from jen1_torch.codec import Codec, Whitening, fingerprint
from jen1_torch.conditioning import chosen
from jen1_torch.files import Arrays, check_files, read_about, read_layout, read_source
from jen1_torch.generation import Generation
from jen1_torch.sampling import check_sampling
from jen1_torch.t5 import T5Encoder
from jen1_torch.text import FrozenText, TextEncoder, TrainedText
from jen1_torch.unet import UNet

FILES = ["config.json", "README.md", "model*.safetensors", "model.safetensors.index.json", "text/*"]
TRAINING = ("mask_rate", "mask_unit", "dtype", "remat", "scan", "conditioning")  # no sizes
BESIDE = ("modeling_jen1.py", "generate.py", "requirements.txt", "README.md")  # of jen1_torch


class Jen1(nn.Module, PyTorchModelHubMixin, Generation, library_name="pytorch"):
    """A U-Net, an autoencoder with its whitening, and a text encoder.

    Args:
        config: the content of config.json.
        text: the layout of the small text encoder that is part of the model (text/config.json);
            None where the text encoder is a frozen one, which transformers loads.
    """

    def __init__(self, config: dict[str, Any], text: dict[str, int] | None = None) -> None:
        super().__init__()
        self.about, self.config = config, config["config"]
        fields = {
            name: {key: each for key, each in self.config[name].items() if key not in TRAINING}
            for name in ("autoencoder", "unet")
        }
        channels = fields["autoencoder"]["latent_channels"]
        k = max(1, math.floor(self.config["whitening"]["keep"] * channels + 1e-9))
        self.autoencoder = Autoencoder(**fields["autoencoder"])
        self.whitening = Whitening(channels, k)
        widths = {
            name: config["conditioning"][name] for name in self.config["unet"]["conditioning"]
        }
        self.unet = UNet(out_channels=k, conditioning=widths, **fields["unet"])
        self.text = T5Encoder(**text) if text else None
        self.folder: Path | None = None  # where the model was loaded from
        self._prompts: TextEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **hub: Any,
    ) -> Self:
        """The model of a local folder, or of a name on the hub, ready to generate.

        Networks compute in `dtype`; the whitening and the search for phases stay float32. `hub`
        goes to `huggingface_hub.snapshot_download`: `revision`, `token`, `cache_dir` and the like.

        Raises:
            Refusal: a file is missing or damaged, or is of another model or version.
        """
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise Refusal(f"Networks cannot compute in {dtype}: use float32, float16 or bfloat16.")
        name = os.fspath(pretrained_model_name_or_path)
        folder = Path(name) if os.path.isdir(name) else _download(name, hub)
        model = _shapes(cls, folder)
        arrays, expected = Arrays(folder), model.state_dict()
        arrays.check(expected)
        loaded = {key: arrays.read(key, tensor.dtype) for key, tensor in expected.items()}
        model.load_state_dict(loaded, assign=True)
        model.folder = folder
        held, recorded = model.fingerprint(), model.about["fingerprints"]["autoencoder"]
        if held != recorded:
            raise Refusal(
                f"The autoencoder in {folder} has the fingerprint {held}, but its config.json holds"
                f" {recorded}: the file comes from another model; copy the folder again."
            )
        return model.to(device=device, dtype=dtype).eval()

    def fingerprint(self) -> str:
        """SHA-256 of the encoder and the whitening: models of the same one share their latents."""
        autoencoder = self.autoencoder
        return fingerprint(autoencoder, self.whitening, self.sample_rate, autoencoder.hop)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def sample_rate(self) -> int:
        """Of all audio, in Hz."""
        return self.config["audio"]["sample_rate"]

    @property
    def codec(self) -> Codec:
        measured = self.about["measured"]
        loudest = torch.tensor(measured["loudest"]) if measured["loudest"] else None
        return Codec(
            self.autoencoder, self.whitening, self.sample_rate, loudest, measured["margin"]
        )

    @property
    def whole_windows(self) -> bool:
        """Whether training had no padding: then a short piece is sampled as a whole window."""
        return self.config["data"]["short_rate"] == 0

    @property
    def prompts(self) -> TextEncoder:
        """What embeds prompts; a frozen text encoder is loaded when it is first used."""
        if self._prompts is None:
            if self.folder is None:
                raise Refusal("This model has no tokenizer: load it by `Jen1.from_pretrained`.")
            folder, source = self.folder / "text", read_source(self.folder)
            held = folder / "encoder" if (folder / "encoder").is_dir() else folder
            check_files(held, source["files"])
            if self.text is not None:
                pieces = SentencePiece(folder, source["max_length"])
                self._prompts = TrainedText(pieces, self.text)
            else:
                name = source["encoder"] if held == folder else str(held)
                self._prompts = FrozenText(name, source["max_length"], source["dtype"])
        if self.text is None:
            self._prompts.module.to(self.device)
        return self._prompts

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes all files of the model's folder; `save_pretrained` and `push_to_hub` call it."""
        prints = self.about["fingerprints"] | {"autoencoder": self.fingerprint()}
        about = json.dumps(self.about | {"fingerprints": prints}, indent=1)
        (save_directory / "config.json").write_text(about)
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_torch_state_dict(state, save_directory, max_shard_size="512MB")
        if self.folder is None or self.folder.resolve() == save_directory.resolve():
            return
        shutil.copytree(self.folder / "text", save_directory / "text", dirs_exist_ok=True)
        for package in (jen1_torch, jen1_numpy):
            (save_directory / package.__name__).mkdir(exist_ok=True)
            for file in Path(package.__path__[0]).glob("*.py"):
                if file.name not in BESIDE:
                    shutil.copyfile(file, save_directory / package.__name__ / file.name)
        for name in BESIDE:
            folder = self.folder if name == "README.md" else Path(__file__).parent
            if (folder / name).is_file():
                shutil.copyfile(folder / name, save_directory / name)


def _download(name: str, hub: dict[str, Any]) -> Path:
    """The local copy of a model on the hub."""
    try:
        return Path(snapshot_download(name, allow_patterns=FILES, **hub))
    except Exception as error:  # its type depends on the release of the hub's client
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise Refusal(
            f"{name!r} is not a folder, and the Hugging Face hub did not give it ({reason}): give "
            "a folder that `jen1 export torch` has written, or a name on the hub."
        ) from None


def _shapes(cls: type[Jen1], folder: Path) -> Jen1:
    """The model of a folder without memory for its parameters, which have shapes alone."""
    about, source = read_about(folder), read_source(folder)
    held = "encoder" if (folder / "text" / "encoder").is_dir() else ""
    if (held or not source["encoder"]) and not source["files"]:
        raise Refusal(f"{folder / 'text' / 'source.json'} lists no files: export the run again.")
    text = None if source["encoder"] else read_layout(folder / "text" / "config.json")
    try:
        chosen(about["config"]["unet"]["conditioning"])
        check_sampling(about["config"]["diffusion"])
        with torch.device("meta"):
            model = cls(about, text)
        window = about["config"]["data"]["seconds"] * model.sample_rate / model.autoencoder.hop
        if window < model.unet.frames_multiple:
            raise ValueError(f"its windows have {window:.1f} latent frames")
        most, layout = model.autoencoder.encoder_reach, model.autoencoder.encoder.layout
        bands = layout.bands if layout else 0
        measured = about["measured"]
        if measured["margin"] > most or len(measured["loudest"]) != bands:
            raise ValueError(f"the margin is at most {most}, and there are {bands} loudest levels")
    except Refusal:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise Refusal(
            f"{folder / 'config.json'} does not describe a model ({reason}): copy or export it "
            "again."
        ) from None
    return model
