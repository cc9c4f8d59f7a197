"""Evaluates a trained autoencoder on held-out audio: figures per clip and overall, and pairs to listen to and to look at."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.errors import Refusal
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.evaluation.reconstruction import figures, medians
from jen1_jax.files import write_text
from jen1_jax.generation.audio import read_audio, write_wav
from jen1_jax.generation.model import Progress

log = logging.getLogger(__name__)

PAIRS = 4  # written as audio and drawn
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif"}


@dataclass(frozen=True)
class Clip:
    """One piece of audio to evaluate on, at the codec's rate."""

    name: str
    audio: Float[np.ndarray, "samples 2"]
    caption: str = ""
    tonal: bool = False  # known to be without drums
    start: float = 0.0  # seconds into its piece at which it begins
    total: float | None = None  # seconds of the whole piece, where they are known


def clips_of(batches: Iterable[Mapping[str, Any]]) -> Iterator[Clip]:
    """Those of prepared data: `audio`, `valid_samples`, `caption` and, where they are known, `meta` (JSON strings)."""
    number = 0
    for batch in batches:
        for row, valid in enumerate(batch["valid_samples"]):
            meta = json.loads(batch["meta"][row]) if "meta" in batch else {}
            tonal = bool(meta.get("truth", meta).get("tonal", False))
            place = (
                (float(batch["start"][row]), float(batch["total"][row])) if "start" in batch else ()
            )
            yield Clip(
                f"{number:05d}",
                batch["audio"][row, :valid],
                str(batch["caption"][row]),
                tonal,
                *place,
            )
            number += 1


def clips_in(folder: Path, sample_rate: int) -> Iterator[Clip]:
    """The audio files under a folder, whole; what cannot be read is logged and left out."""
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
    """Writes `report.json`, `page.png` and pairs of WAVs into `out`; returns the report.

    The report has `clips`, one record each, and `median` over all clips and over those that are known to be tonal.
    """
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
        reconstruction = codec.decode(
            latents, len(original), partial(progress, f"decoding {clip.name}")
        )
        if not np.isfinite(reconstruction).all():
            raise Refusal(
                f"The reconstruction of {clip.name} holds NaN or infinite samples; look for them in the clip itself with "
                "`jen1 data validate`, and if there are none, train the autoencoder anew."
            )
        found = figures(reconstruction, original, codec.sample_rate)
        record = {
            "name": clip.name,
            "caption": clip.caption,
            "seconds": len(original) / codec.sample_rate,
            "tonal": clip.tonal,
        }
        record |= {
            name: value if np.isfinite(value) else None for name, value in found.items()
        }  # silence has none
        if len(pairs) < PAIRS:
            number = len(pairs)
            write_wav(out / f"{number}-original.wav", original, codec.sample_rate)
            write_wav(out / f"{number}-reconstruction.wav", reconstruction, codec.sample_rate)
            says = f"{found['si_sdr']:.1f} dB SI-SDR, mel distance {found['mel_distance']:.2f}"
            shown = slice(10 * codec.sample_rate)  # a page has room for no more
            pairs.append(
                (
                    Sound("original", original[shown], caption=clip.caption or clip.name),
                    Sound("reconstruction", reconstruction[shown], caption=says),
                )
            )
        records.append(record)
    if not records:
        raise Refusal(
            "There is no held-out audio to evaluate on; prepare data with a larger --test-fraction, or give a folder."
        )
    report = {"median": {"all": {"clips": len(records)} | medians(records)}, "clips": records}
    if tonal := [record for record in records if record["tonal"]]:
        report["median"]["tonal"] = {"clips": len(tonal)} | medians(tonal)
    write_text(out / "report.json", json.dumps(report, indent=1))
    run_page(
        out / "page.png",
        "Autoencoder: held-out audio and its round trip",
        pairs=pairs,
        sample_rate=codec.sample_rate,
    )
    return report
