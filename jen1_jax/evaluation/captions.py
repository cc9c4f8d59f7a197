"""Does a trained model follow captions that it has never seen? What held-out captions give is compared with their clips."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jen1_jax.errors import Refusal
from jen1_jax.evaluation.adherence import VIEWS, compare
from jen1_jax.evaluation.autoencoder import Clip
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.files import write_text
from jen1_jax.generation.audio import write_wav
from jen1_jax.generation.model import Model

PAIRS = 4  # written as audio and drawn
LEAST = 8  # clips to compare
BATCH = 16


def one_a_caption(clips: Iterable[Clip], samples: int, most: int) -> list[Clip]:
    """One clip for each caption: the first that has so many `samples`, cut to them. `most` captions are taken, the same ones in
    whatever order the clips come.

    Clips of one file share a caption and are like each other, so that together they would count for more than they say.
    """
    chosen: dict[bytes, Clip] = {}
    for clip in clips:
        key = hashlib.sha256(clip.caption.strip().encode()).digest()
        if clip.caption.strip() and len(clip.audio) >= samples and key not in chosen:
            chosen[key] = replace(
                clip, audio=clip.audio[:samples].copy()
            )  # a view would keep its whole batch
            if len(chosen) > most:
                del chosen[max(chosen)]
    return [chosen[key] for key in sorted(chosen)]


def evaluate_captions(
    model: Model, clips: Iterable[Clip], length: int, most: int, out: Path, seed: int = 0
) -> dict[str, Any]:
    """Writes `report.json`, `page.png` and pairs of WAVs into `out`; returns the report.

    Its `rows` hold `adherence.compare` of what the captions gave ("generated") and of the autoencoder's round trip, which no
    generator can pass. Of `clips`, up to `length` samples long, it takes `most` (see `one_a_caption`), and of each as much as the
    model makes at once.
    """
    samples = min(model.sampler.window * model.codec.hop, length)
    clips = one_a_caption(clips, samples, most)
    if len(clips) < LEAST:
        raise Refusal(
            f"Captions are judged by which of the held-out clips their music is nearest to, and there are {len(clips)} different "
            f"captions with a clip of {samples / model.sample_rate:.2f} s; it takes at least {LEAST}: prepare more data, or a "
            "larger --test-fraction."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"The folder {out} cannot be written ({error.strerror}); choose another --out."
        ) from None
    captions, real = [clip.caption for clip in clips], np.stack([clip.audio for clip in clips])
    made = []
    for first in range(0, len(clips), BATCH):
        part = clips[first : first + BATCH]
        seeds = [seed + number for number in range(first, first + len(part))]
        places = {}
        if (
            "timing" in model.sampler.unet.conditioning
        ):  # it was told in training where a clip lies in its piece
            places = {
                "start": [clip.start for clip in part],
                "total": [clip.total for clip in part],
            }
        made += model.generate(
            [clip.caption for clip in part], samples / model.sample_rate, seeds, **places
        )
    round_trip = [model.codec.decode(model.codec.encode(audio), samples) for audio in real]
    rows = {
        name: compare(np.stack(audio), real, model.sample_rate)
        for name, audio in (("round trip", round_trip), ("generated", made))
    }
    sounds = []
    for number, (caption, original, ours) in enumerate(
        zip(captions[:PAIRS], real, made, strict=False)
    ):
        sounds += [
            Sound("held-out clip", original, caption=caption),
            Sound("generated", ours, caption=caption),
        ]
        write_wav(out / f"{number}-held-out.wav", original, model.sample_rate)
        write_wav(out / f"{number}-generated.wav", ours, model.sample_rate)
    report = {
        "clips": len(clips),
        "seconds": samples / model.sample_rate,
        "rows": rows,
        "captions": captions,
    }
    write_text(out / "report.json", json.dumps(report, indent=1))
    found = ", ".join(f"{view} {rows['generated'][view]['rank']:.4g}" for view in VIEWS)
    title = f"Median rank of {len(clips)}: {found} (chance {(len(clips) + 1) / 2:.4g})"
    run_page(out / "page.png", title, sounds, sample_rate=model.sample_rate)
    return report
