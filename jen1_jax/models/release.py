"""Makes a release of a run: a run folder with float16 weights and without training state."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np

from jen1_jax.autoencoder.codec import fingerprint
from jen1_jax.files import fetched, whole_folder
from jen1_jax.models import weights
from jen1_jax.models.diffusion import load_diffusion
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal
from jen1_numpy.files import write_text


def release(run: Run, out: str, encoder: str = "", step: str = "") -> None:
    """Writes the release `out` of a trained `run`. It generates what the run generates.

    Rounding changes the autoencoder a little, and so its fingerprint.

    Args:
        encoder: the name that others have for the frozen text encoder, for example on the hub.
        step: of the diffusion model's checkpoint; or "best" by held-out loss, "" for the newest.

    Raises:
        Refusal: the run is not trained to its end; its text encoder is a folder of this machine and
            has no other name; `out` holds something already.
    """
    trained, config = load_diffusion(run, step), run.config.copy_and_resolve_references()
    source = json.loads((run.text / "source.json").read_text())
    name = encoder or source["encoder"]
    if source["encoder"] and os.path.isabs(name):
        raise Refusal(
            f"The text encoder of {run.path} is the folder {name}, which others do not have; name "
            "it as they find it: --text sentence-transformers/all-MiniLM-L6-v2."
        )
    codec = trained.codec
    autoencoder = weights.half(codec.params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(np.float32), autoencoder)
    identity = fingerprint(rounded, codec.whitening, sample_rate=codec.sample_rate, hop=codec.hop)
    diffusion = {"unet": trained.params}
    if trained.text.trainable:
        diffusion["text"] = trained.text_params
    with whole_folder(out) as folder, config.unlocked():
        config.text.encoder = name
        target = Run(Path(folder))
        target.write(config, run.record["fingerprints"] | {"autoencoder": identity})
        with fetched(run.text) as text:
            shutil.copytree(text, target.text)
        write_text(target.text / "source.json", json.dumps(source | {"encoder": name}, indent=1))
        target.whitening.parent.mkdir()
        target.whitening.write_bytes(run.whitening.read_bytes())
        target.measured.write_bytes(run.measured.read_bytes())
        data = trained.trained.get("data")
        record = target.record | ({"data": data} if data else {})
        weights.write(target.weights("autoencoder"), autoencoder, record)
        weights.write(target.weights("diffusion"), weights.half(diffusion), record)
