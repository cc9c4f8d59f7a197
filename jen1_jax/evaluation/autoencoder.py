"""Evaluates a trained autoencoder on held-out clips: figures per clip and overall, and pairs to listen to and to look at."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.errors import Refusal
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.evaluation.reconstruction import mel_distance, si_sdr, side_error
from jen1_jax.generation.audio import write_wav
from jen1_jax.run import write_text

PAIRS = 4  # written as audio and drawn


def evaluate_autoencoder(codec: Codec, batches: Iterable[Mapping[str, Any]], out: Path) -> dict[str, Any]:
    """Writes `report.json`, `page.png` and pairs of WAVs into `out`; returns the report.

    `batches` hold `audio`, `valid_samples`, `caption` and, where they are known, `meta` (JSON strings). The report has `clips`,
    one record each, and `median` over all clips and over those whose metadata say that they are tonal.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"The folder {out} cannot be written ({error.strerror}); choose another --out.") from None
    clips, pairs = [], []
    for batch in batches:
        reconstructions = codec.decode(codec.encode(batch["audio"]))
        for row, valid in enumerate(batch["valid_samples"]):
            original, reconstruction = batch["audio"][row, :valid], reconstructions[row, :valid]
            meta = json.loads(batch["meta"][row]) if "meta" in batch else {}
            clip = {
                "caption": str(batch["caption"][row]),
                "tonal": bool(meta.get("truth", meta).get("tonal", False)),
                "si_sdr": si_sdr(reconstruction, original),
                "mel_distance": mel_distance(reconstruction, original, codec.sample_rate),
                "side_error": side_error(reconstruction, original),
            }
            if len(pairs) < PAIRS:
                number = len(pairs)
                write_wav(out / f"{number}-original.wav", original, codec.sample_rate)
                write_wav(out / f"{number}-reconstruction.wav", reconstruction, codec.sample_rate)
                says = f"{clip['si_sdr']:.1f} dB SI-SDR, mel distance {clip['mel_distance']:.1f} dB"
                pairs.append(
                    (Sound("original", original, caption=clip["caption"]), Sound("reconstruction", reconstruction, caption=says))
                )
            clips.append(clip)
    if not clips:
        raise Refusal("There are no held-out clips to evaluate on; prepare data with a larger --test-fraction.")
    report = {"median": {"all": _medians(clips)}, "clips": clips}
    if tonal := [clip for clip in clips if clip["tonal"]]:
        report["median"]["tonal"] = _medians(tonal)
    write_text(out / "report.json", json.dumps(report, indent=1))
    run_page(out / "page.png", "Autoencoder: held-out clips and their round trip", pairs=pairs, sample_rate=codec.sample_rate)
    return report


def _medians(clips: list[dict[str, Any]]) -> dict[str, float]:
    names = ("si_sdr", "mel_distance", "side_error")
    return {"clips": len(clips)} | {name: float(np.nanmedian([clip[name] for clip in clips])) for name in names}
