"""One picture of a run: generated audio, the autoencoder's round trips, and loss curves."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_numpy.audio import read_audio
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local


def draw_run(run: Run, files: Sequence[Path], out: Path) -> None:
    """Draws the WAV `files`, the run's demos (originals with reconstructions) and its losses.

    Prompt and generated spans of a file are read from the JSON file beside it, if there is one.
    Raises `Refusal` if a file cannot be read, or if `out` is no PNG file that can be written.
    """
    out, rate = local(out), run.config.audio.sample_rate
    sounds = [_sound(path, rate) for path in files]
    demos = run.path / "autoencoder" / "demos"
    pairs = []
    for original in sorted(demos.glob("*-original.wav"))[:2]:
        reconstruction = original.with_name(original.name.replace("original", "reconstruction"))
        pairs.append((_sound(original, rate), _sound(reconstruction, rate)))
    metrics = {}
    for part in ("autoencoder", "diffusion"):
        if records := read_metrics(run.path / part / "metrics.jsonl"):
            metrics[part] = records
    if out.suffix.lower() != ".png" or out.is_dir() or not os.access(out.parent, os.W_OK):
        raise Refusal(
            f"{out} should end in .png, be no folder, and lie in a folder that exists and can be "
            "written."
        )
    run_page(out, f"jen1-jax: {run.path.name}", sounds, pairs, metrics, rate)


def _sound(path: Path, rate: int) -> Sound:
    audio = read_audio(path, rate)
    file = path.with_name(path.name + ".json")
    try:
        record = json.loads(file.read_text()) if file.is_file() else {}
        return Sound(path.stem, audio, record.get("spans", []), caption=record.get("prompt", ""))
    except (ValueError, AttributeError) as error:
        raise Refusal(
            f"{file} is not a record of how {path.name} was generated ({error}); delete it, and "
            "the page shows the audio alone."
        ) from None
