"""Tests that the adversarial training of an autoencoder stays stable, also with bad data.

    jen1 data prepare --source MUSIC --out DATA --seconds 5.12
    python -m benchmarks.soak_autoencoder DATA [--steps 3000] [--folder RUN]

One batch in eight contains a silent example and a square wave at full scale. One batch in `POISON`
contains NaN or infinity. The training must skip exactly these batches, name their records, and end
with finite losses and parameters. It needs prepared DATA of real music, and takes 40 minutes on two
CPU cores. It keeps ten checkpoints, for `python -m benchmarks.quality RUN DATA`.
"""

import argparse
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.waveform import get_config as waveform
from jen1_jax.batch import as_float
from jen1_jax.evaluation.reconstruction import si_sdr
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.loop import Data

POISON = 97  # steps from one batch with NaN or infinity to the next


class BadData:
    """Training data with silence, square waves, NaN and infinity; the step decides where."""

    def __init__(self, data: Data):
        self._data, self.description = data, data.description

    def captions(self) -> list[str]:
        return self._data.captions()

    def batches(
        self, start_step: int, around: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        for step, batch in enumerate(self._data.batches(start_step, rows=rows), start_step):
            audio = np.array(as_float(batch)["audio"])
            if step % 8 == 1:
                audio[0] = 0
                audio[1] = np.sign(np.sin(np.arange(audio.shape[1]) / 17.0))[:, None]
            if poisoned(step):
                audio[-1, audio.shape[1] // 2, 0] = (np.nan, np.inf)[step // POISON % 2]
            yield dict(batch) | {"audio": audio}

    def sweep(
        self, split: str, around: int = 0, limit: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(self._data.sweep(split, limit=limit, share=share)):
            audio = np.array(batch["audio"])
            if number == 0 and split == "train":
                audio[0, 0, 0] = np.nan
            yield dict(batch) | {"audio": audio}


def poisoned(step: int) -> bool:
    return step % POISON == POISON - 1


def soak(config: ConfigDict, data: Data, folder: Path, progress=print) -> dict[str, Any]:
    """Trains on `BadData` and returns figures; raises AssertionError if it is unstable."""
    steps, lines = config.train_autoencoder.steps, []

    def record_line(line: str) -> None:
        lines.append(line)
        progress(line)

    began = time.monotonic()
    run = Run(folder)
    train_autoencoder(config, run, BadData(data), progress=record_line)
    seconds = time.monotonic() - began
    records = read_metrics(run.path / "autoencoder" / "metrics.jsonl")
    named = [
        int(re.search(r"step (\d+) was not finite; skipped its batch, records \d", line)[1])
        for line in lines
        if "skipped its" in line
    ]
    expected = [step for step in range(steps) if poisoned(step)]
    assert named == expected, f"skipped {named}, poisoned {expected}"
    assert sum(record["skipped"] for record in records) == len(expected)
    losses = [record["loss"] for record in records]
    assert np.isfinite(losses).all(), losses
    codec = load_codec(Run.open(run.path))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(codec.params))
    figures = []
    for batch in data.sweep("test"):
        decoded = codec.decode(codec.encode(batch["audio"]))
        rows = zip(decoded, batch["audio"], batch["valid_samples"], strict=True)
        figures += [si_sdr(output[:valid], audio[:valid]) for output, audio, valid in rows]
    return {
        "steps": steps,
        "adversarial_from": config.train_autoencoder.adversary.start,
        "skipped": len(expected),
        "seconds": round(seconds),
        "first_loss": losses[0],
        "last": {
            key: round(value, 4) for key, value in records[-1].items() if key.startswith("loss")
        },
        "held_out_si_sdr": float(np.nanmedian(figures)) if figures else None,
    }


def config(steps: int) -> ConfigDict:
    """The autoencoder of `waveform` with all losses of `jen1`.

    One small discriminator begins after a tenth of the steps.
    """
    config = waveform()
    config.train_autoencoder.losses.update(stft=0.2, mel=0.2, adversarial=0.1, feature_matching=1.0)
    config.train_autoencoder.update(
        steps=steps,
        learning_rate=1e-3,
        log_every=50,
        checkpoint_every=max(steps // 10, 1),
        keep_checkpoints=10,
        seconds=0.54,
    )
    config.train_autoencoder.adversary.update(
        windows=(512,), channels=8, start=steps // 10, ramp=steps // 20
    )
    return config


if __name__ == "__main__":
    from data_pipeline.shard_data import ShardData

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with prepared shards")
    parser.add_argument("--steps", type=int, default=3000, help="default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, help="a new folder for the run; default: a temporary one"
    )
    options = parser.parse_args()
    settings = config(options.steps)
    hop = math.prod(settings.autoencoder.strides)
    crop = round(settings.train_autoencoder.seconds * settings.audio.sample_rate) // hop * hop
    batch_size = settings.train_autoencoder.batch_size
    shards = ShardData(options.data, batch_size, settings.seed, crop=crop)
    folder = options.folder or Path(tempfile.mkdtemp()) / "run"
    print(json.dumps(soak(settings, shards, folder)))
