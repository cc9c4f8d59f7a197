"""Evaluates whether a trained model follows captions that it has not seen in training.

Music is generated from held-out captions and compared with the clips of these captions.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jen1_jax.evaluation.adherence import VIEWS, compare
from jen1_jax.evaluation.autoencoder import Clip
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.generation.model import Model
from jen1_numpy.audio import write_wav
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local, write_text
from jen1_numpy.options import SamplingOptions

PAIRS = 4  # clips that are written as audio and drawn, each with the music of its caption
MIN_CLIPS = 8
BATCH = 16  # clips generated at once


def one_per_caption(clips: Iterable[Clip], samples: int, limit: int) -> list[Clip]:
    """At most `limit` clips with different captions, each cut to its first `samples` samples.

    A caption keeps its first clip that is long enough. Which captions are kept does not depend on
    the order of the clips, since captions are sorted by their hash. Clips of one file share a
    caption and are similar, so that several of them would count too much.
    """
    chosen: dict[bytes, Clip] = {}
    for clip in clips:
        key = hashlib.sha256(clip.caption.strip().encode()).digest()
        if clip.caption.strip() and len(clip.audio) >= samples and key not in chosen:
            # A view instead of a copy would keep its whole batch in memory.
            chosen[key] = replace(clip, audio=clip.audio[:samples].copy())
            if len(chosen) > limit:
                del chosen[max(chosen)]
    return [chosen[key] for key in sorted(chosen)]


def evaluate_captions(
    model: Model, clips: Iterable[Clip], length: int, limit: int, out: Path, seed: int = 0
) -> dict[str, Any]:
    """Writes `report.json`, `page.png` and pairs of WAV files into `out`; returns the report.

    At most `limit` clips are taken (see `one_per_caption`), and of each clip as many samples as the
    model generates at once, but at most `length`. The report's `rows` hold `adherence.compare` for
    the generated music ("generated") and for the clips after the autoencoder ("round trip"), which
    is the best result that a generator can reach. Raises `Refusal` if there are too few captions or
    if `out` cannot be written.
    """
    samples = min(model.sampler.window * model.codec.hop, length)
    seconds = samples / model.sample_rate
    clips = one_per_caption(clips, samples, limit)
    if len(clips) < MIN_CLIPS:
        raise Refusal(
            "The evaluation compares generated music with the held-out clips of different "
            f"captions; there are {len(clips)} such clips of {seconds:.2f} s, and it needs at "
            f"least {MIN_CLIPS}: prepare more data, or a larger --test-fraction."
        )
    out = local(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"The folder {out} cannot be written ({error.strerror}); choose another --out."
        ) from None
    captions = [clip.caption for clip in clips]
    reference = np.stack([clip.audio for clip in clips])
    generated = []
    for first in range(0, len(clips), BATCH):
        part = clips[first : first + BATCH]
        seeds = [seed + number for number in range(first, first + len(part))]
        timing: SamplingOptions = {}
        if "timing" in model.sampler.unet.conditioning:
            # Such a model was trained with the position of each clip in its piece.
            starts, totals = [clip.start for clip in part], [clip.total for clip in part]
            timing = {"start": starts, "total": totals}
        prompts = [clip.caption for clip in part]
        generated += model.generate(prompts, seconds, seeds, **timing)
    round_trip = [model.codec.decode(model.codec.encode(audio), samples) for audio in reference]
    rows = {
        "round trip": compare(np.stack(round_trip), reference, model.sample_rate),
        "generated": compare(np.stack(generated), reference, model.sample_rate),
    }
    sounds = []
    for number, caption in enumerate(captions[:PAIRS]):
        for name, audio in (("held-out", reference[number]), ("generated", generated[number])):
            write_wav(out / f"{number}-{name}.wav", audio, model.sample_rate)
        sounds += [
            Sound("held-out clip", reference[number], caption=caption),
            Sound("generated", generated[number], caption=caption),
        ]
    report = {"clips": len(clips), "seconds": seconds, "rows": rows, "captions": captions}
    write_text(out / "report.json", json.dumps(report, indent=1))
    medians = ", ".join(f"{view} {rows['generated'][view]['rank']:.4g}" for view in VIEWS)
    title = f"Median rank of {len(clips)}: {medians} (chance {(len(clips) + 1) / 2:.4g})"
    run_page(out / "page.png", title, sounds, sample_rate=model.sample_rate)
    return report
