"""Writes what the quickstart asks its model to remember: clips of the training split as WAV; prints their captions, one a line.

python launch/clips.py DATA OUT COUNT
"""

import sys
from pathlib import Path

from data_pipeline.shard_data import ShardData
from jen1_jax.generation.audio import write_wav

data, out, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
batch = next(ShardData(data, count, seed=0, limit=count).sweep("train"))
for number, (audio, valid) in enumerate(zip(batch["audio"], batch["valid_samples"], strict=True), start=1):
    write_wav(out / f"{number}.wav", audio[:valid], 48_000)
    write_wav(out / f"{number}-beginning.wav", audio[: valid // 2], 48_000)
    print(" ".join(batch["caption"][number - 1].split()))
