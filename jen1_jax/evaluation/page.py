"""One picture of a run: what it made, the autoencoder's round trip, and the loss curves."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from jen1_jax.errors import Refusal
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.generation.audio import read_audio
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run


def draw_run(run: Run, files: Sequence[Path], out: Path) -> None:
    """Draws the WAV `files` (with what their `.json` says of them), the pairs in the run's demos, and its loss curves."""
    rate = run.config.audio.sample_rate
    sounds = [_sound(path, rate) for path in files]
    demos = run.path / "autoencoder" / "demos"
    originals = sorted(demos.glob("*-original.wav"))[:2]
    pairs = [
        tuple(
            _sound(path, rate)
            for path in (o, o.with_name(o.name.replace("original", "reconstruction")))
        )
        for o in originals
    ]
    metrics = {
        part: read_metrics(run.path / part / "metrics.jsonl")
        for part in ("autoencoder", "diffusion")
    }
    if out.suffix.lower() != ".png" or out.is_dir() or not os.access(out.parent, os.W_OK):
        raise Refusal(
            f"{out} should end in .png, be no folder, and lie in one that exists and can be written."
        )
    title = f"jen1-jax: {run.path.name}"
    run_page(
        out,
        title,
        sounds,
        pairs,
        {name: records for name, records in metrics.items() if records},
        rate,
    )


def _sound(path: Path, rate: int) -> Sound:
    audio = read_audio(path, rate)
    about = path.with_name(path.name + ".json")
    try:
        made = json.loads(about.read_text()) if about.is_file() else {}
        return Sound(path.stem, audio, made.get("spans", []), caption=made.get("prompt", ""))
    except (ValueError, AttributeError) as error:
        raise Refusal(
            f"{about} does not say how {path.name} was made ({error}); delete it, and the page shows the audio alone."
        ) from None
