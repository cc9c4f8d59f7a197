"""Evaluates a trained autoencoder on held-out audio.

It computes figures for each clip and their medians, and writes some originals with their
reconstructions as audio files and as a picture.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.evaluation.reconstruction import figures, medians
from jen1_jax.generation.model import Progress
from jen1_numpy.audio import read_audio, write_wav
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local, write_text

log = logging.getLogger(__name__)

PAIRS = 4  # originals with reconstructions that are written as audio and drawn
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif"}


@dataclass(frozen=True)
class Clip:
    """A piece of audio to evaluate on, at the codec's sample rate."""

    name: str
    audio: Float[np.ndarray, "samples 2"]
    caption: str = ""
    tonal: bool = False  # True where it is known that there are no drums
    start: float = 0.0  # where the clip begins in its piece, in seconds
    total: float | None = None  # length of the whole piece in seconds; None if it is unknown


def clips_of(batches: Iterable[Mapping[str, Any]]) -> Iterator[Clip]:
    """The clips of prepared data.

    A batch holds `audio`, `valid_samples` and `caption`, and may hold `meta` (JSON strings), and
    `start` with `total`.
    """
    number = 0
    for batch in batches:
        for row, valid in enumerate(batch["valid_samples"]):
            meta = json.loads(batch["meta"][row]) if "meta" in batch else {}
            tonal = bool(meta.get("truth", meta).get("tonal", False))
            clip = Clip(
                f"{number:05d}", batch["audio"][row, :valid], str(batch["caption"][row]), tonal
            )
            if "start" in batch:
                start, total = float(batch["start"][row]), float(batch["total"][row])
                clip = replace(clip, start=start, total=total)
            yield clip
            number += 1


def clips_in(folder: Path, sample_rate: int) -> Iterator[Clip]:
    """All audio files under a folder; files that cannot be read are logged and left out."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            yield Clip(str(path.relative_to(folder)), read_audio(path, sample_rate))
        except Refusal as refusal:
            log.info("%s", refusal)


def evaluate_autoencoder(
    codec: Codec,
    clips: Iterable[Clip],
    out: Path,
    progress: Progress = lambda doing, done, total: None,
) -> dict[str, Any]:
    """Writes `report.json`, `page.png` and pairs of WAV files into `out`; returns the report.

    The report holds `clips`, a record of each clip, and `median`: the medians over all clips and
    over the tonal ones. Raises `Refusal` if `out` cannot be written, if there are no clips, or if a
    reconstruction is not finite.
    """
    out = local(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"The folder {out} cannot be written ({error.strerror}); choose another --out."
        ) from None
    records, pairs = [], []
    for clip in clips:
        original = clip.audio
        latents = codec.encode(original, partial(progress, f"encoding {clip.name}"))
        decoding = partial(progress, f"decoding {clip.name}")
        reconstruction = codec.decode(latents, len(original), decoding)
        if not np.isfinite(reconstruction).all():
            raise Refusal(
                f"The reconstruction of {clip.name} holds NaN or infinite samples; look for them "
                "in the clip itself with `jen1 data validate`, and if there are none, train the "
                "autoencoder again."
            )
        measured = figures(reconstruction, original, codec.sample_rate)
        # The figures of a silent clip are NaN, which JSON cannot hold.
        finite = {name: value if np.isfinite(value) else None for name, value in measured.items()}
        record = {
            "name": clip.name,
            "caption": clip.caption,
            "seconds": len(original) / codec.sample_rate,
            "tonal": clip.tonal,
        } | finite
        if len(pairs) < PAIRS:
            number = len(pairs)
            write_wav(out / f"{number}-original.wav", original, codec.sample_rate)
            write_wav(out / f"{number}-reconstruction.wav", reconstruction, codec.sample_rate)
            caption = (
                f"{measured['si_sdr']:.1f} dB SI-SDR, mel distance {measured['mel_distance']:.2f}"
            )
            shown = slice(10 * codec.sample_rate)  # the page has room for 10 seconds
            left = Sound("original", original[shown], caption=clip.caption or clip.name)
            right = Sound("reconstruction", reconstruction[shown], caption=caption)
            pairs.append((left, right))
        records.append(record)
    if not records:
        raise Refusal(
            "There is no held-out audio to evaluate on; prepare data with a larger "
            "--test-fraction, or give a folder."
        )
    median = {"all": {"clips": len(records)} | medians(records)}
    if tonal := [record for record in records if record["tonal"]]:
        median["tonal"] = {"clips": len(tonal)} | medians(tonal)
    report = {"median": median, "clips": records}
    write_text(out / "report.json", json.dumps(report, indent=1))
    title = "Autoencoder: held-out audio and its round trip"
    run_page(out / "page.png", title, pairs=pairs, sample_rate=codec.sample_rate)
    return report
