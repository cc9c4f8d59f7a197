"""One example of every task, made of one clip: what a training writes at intervals."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.generation.model import Model
from jen1_jax.models.diffusion import Diffusion
from jen1_jax.models.run import Run
from jen1_numpy.audio import write_wav

HOLE = (0.4, 0.6)  # of the clip's length, which inpainting generates


def write_demos(
    folder: Path, run: Run, trained: Diffusion, audio: Float[np.ndarray, "samples 2"], prompt: str
) -> None:
    """Writes WAV files and `page.png` into `folder`, with a fixed seed.

    They are the clip, its round trip through the autoencoder, music by its caption `prompt`, the
    clip with its middle generated anew, and its first half continued. Raises `Refusal` where the
    model cannot do one of them, such as with a clip that is too short.
    """
    model = Model.of(run, run.config, trained)
    rate, codec = model.sample_rate, trained.codec
    seconds = len(audio) / rate
    hole, middle = (HOLE[0] * seconds, HOLE[1] * seconds), len(audio) // 2
    sounds = {
        "original": (audio, ()),
        "round_trip": (codec.decode(codec.encode(audio), len(audio)), ()),
        "text_to_music": (model.generate([prompt], seconds)[0], ()),
        "inpainting": (model.inpaint(audio, [hole], prompt), [hole]),
        "continuation": (
            model.extend(audio[:middle], seconds - middle / rate, prompt),
            [(middle / rate, seconds)],
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (sound, spans) in sounds.items():
        write_wav(folder / f"{name}.wav", sound, rate)
        shown = sound[: 10 * rate]  # the page has room for 10 seconds
        drawn.append(Sound(name, shown, spans, caption=prompt))
    title = f"{run.path.name}, step {folder.name}"
    run_page(folder / "page.png", title, drawn[2:], [(drawn[0], drawn[1])], sample_rate=rate)
