"""Writes what the quickstart asks its model to remember: clips of the training split as WAV, with their captions and beginnings.

python launch/clips.py DATA OUT COUNT
"""

import sys
from pathlib import Path

from data_pipeline.shard_data import ShardData
from jen1_jax.generation.audio import write_wav
from jen1_jax.run import write_text

data, out, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
batch = next(ShardData(data, count, seed=0, limit=count).sweep("train"))
for number, (audio, valid) in enumerate(zip(batch["audio"], batch["valid_samples"], strict=True), start=1):
    write_wav(out / f"{number}.wav", audio[:valid], 48_000)
    write_wav(out / f"{number}-beginning.wav", audio[: valid // 2], 48_000)
    write_text(out / f"{number}.txt", " ".join(batch["caption"][number - 1].split()))
    write_text(out / f"{number}.span", f"{0.3 * valid / 48_000:.2f}:{0.7 * valid / 48_000:.2f}")  # of the hole to inpaint
