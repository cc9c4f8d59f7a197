"""Writes what the quickstart asks its model to remember: clips of the training split as WAV, with their captions and beginnings.

python launch/clips.py DATA OUT COUNT

For clip N the files N.generate, N.inpaint and N.extend hold the options of the `jen1` command that would bring it back: how long
it is, where in its recording it lies, and where the hole is.
"""

import sys
from pathlib import Path

from data_pipeline.shard_data import ShardData
from data_pipeline.shards import SAMPLE_RATE
from jen1_jax.generation.audio import write_wav
from jen1_jax.run import write_text

data, out, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
batch = next(ShardData(data, count, seed=0, limit=count).sweep("train"))
for row in range(len(batch["audio"])):
    number, valid = row + 1, int(batch["valid_samples"][row])
    audio, seconds = batch["audio"][row, :valid], valid / SAMPLE_RATE
    write_wav(out / f"{number}.wav", audio, SAMPLE_RATE)
    write_wav(out / f"{number}-beginning.wav", audio[: valid // 2], SAMPLE_RATE)
    write_text(out / f"{number}.txt", " ".join(batch["caption"][row].split()))
    place = f"--start {batch['start'][row]:.3f} --total {batch['total'][row]:.3f}"
    write_text(out / f"{number}.generate", f"--seconds {seconds:.3f} {place}")
    write_text(out / f"{number}.inpaint", f"--span {0.45 * seconds:.3f}:{0.6 * seconds:.3f} {place}")
    write_text(out / f"{number}.extend", f"--seconds {seconds / 2:.3f} {place}")
