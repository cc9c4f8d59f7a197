"""Writes the inputs of the quickstart's generations: held-out clips, their beginnings and captions.

    python launch/clips.py DATA OUT COUNT

Clip N gives N.wav, N-beginning.wav (its first half) and N.txt (its caption). The files N.generate,
N.inpaint and N.extend hold the options of these `jen1` commands for a result of the clip's length.
If the data have no held-out clips, because there are only few files, it takes training clips.
"""

import sys
from pathlib import Path

from data_pipeline.layout import SAMPLE_RATE
from data_pipeline.shard_data import ShardData
from jen1_numpy.audio import write_wav
from jen1_numpy.files import write_text

data, out, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
shards = ShardData(data, count, seed=0, limit=count)
batch = next(shards.sweep("test" if "test" in shards.description["examples"] else "train"))
for row in range(len(batch["audio"])):
    number, valid = row + 1, int(batch["valid_samples"][row])
    audio, seconds = batch["audio"][row, :valid], valid / SAMPLE_RATE
    write_wav(out / f"{number}.wav", audio, SAMPLE_RATE)
    write_wav(out / f"{number}-beginning.wav", audio[: valid // 2], SAMPLE_RATE)
    write_text(out / f"{number}.txt", " ".join(batch["caption"][row].split()))
    write_text(out / f"{number}.generate", f"--seconds {seconds:.3f}")
    write_text(out / f"{number}.inpaint", f"--span {0.45 * seconds:.3f}:{0.6 * seconds:.3f}")
    write_text(out / f"{number}.extend", f"--seconds {seconds / 2:.3f}")
