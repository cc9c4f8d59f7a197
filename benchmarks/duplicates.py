"""Measures how many copies of recordings are found, what is taken for a copy, and how fast.

    python -m benchmarks.duplicates [FOLDER] [--seconds 10.24] [--count 100] [--prints 200000]

Stretches of `--seconds` are taken from `--count` recordings: the first three of each file of
FOLDER, or clips of the built-in music without a FOLDER. Of each one's first stretch the copies
below are made. A miss is a copy that `duplicates` does not find; a false pair is a stretch that it
takes for another one. It is printed, since it may be a repeat within a piece. Then it measures the
speed of the judge and the time and memory that `duplicates` needs for `--prints` synthetic
fingerprints, of which a tenth are copies with 8 % of the bits wrong.
"""

import argparse
import io
import json
import resource
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_pipeline.judging import Judge, duplicates
from data_pipeline.sources.items import SUFFIXES
from data_pipeline.synthesis import clip

BLOCK = 1 << 18  # frames
STRETCHES = 3


def judged(audio: np.ndarray, rate: int):
    judge = Judge(rate, audio.shape[1])
    for start in range(0, len(audio), BLOCK):
        judge.add(audio[start : start + BLOCK])
    return judge.verdict()


def stretches(folder: str | None, seconds: float) -> Iterator[list[tuple[str, np.ndarray, int]]]:
    """Of each recording up to three stretches: name, float32 [samples, channels], rate."""
    if folder is None:
        for index in range(10**6):
            yield [(f"clip {index}", clip(0, index, seconds).audio, 48_000)]
    else:
        for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES):
            with soundfile.SoundFile(path) as file:
                length, parts = round(seconds * file.samplerate), []
                for number in range(STRETCHES):
                    audio = file.read(length, "float32", always_2d=True)
                    if len(audio) == length:
                        parts.append((f"{path.name} part {number}", audio, file.samplerate))
            if parts and parts[0][1].shape[1] <= 2:
                yield parts


def copies(audio: np.ndarray, rate: int) -> Iterator[tuple[str, np.ndarray, int]]:
    """Copies of a recording as they are met in collections."""
    rng = np.random.default_rng(0)
    dither = rng.random(audio.shape) - rng.random(audio.shape)
    yield "half gain, dither", np.float32(np.round(audio * 16384 + dither) / 32768), rate
    other = 44_100 if rate != 44_100 else 48_000
    resampled = np.float32(soxr.resample(audio, rate, other))
    yield "44.1 or 48 kHz", resampled, other
    yield "50 ms later", np.pad(audio, ((rate // 20, 0), (0, 0))), rate
    yield "MP3", *coded(audio, rate, "MP3", "MPEG_LAYER_III")
    yield "Vorbis", *coded(audio, rate, "OGG", "VORBIS")
    yield "Opus", *coded(np.float32(soxr.resample(audio, rate, 48_000)), 48_000, "OGG", "OPUS")
    audio, rate = coded(0.7 * resampled, other, "MP3", "MPEG_LAYER_III")
    yield "MP3, rate, 25 ms", np.pad(audio, ((rate // 40, 0), (0, 0))), rate


def coded(audio: np.ndarray, rate: int, format: str, subtype: str) -> tuple[np.ndarray, int]:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=format, subtype=subtype)
    file.seek(0)
    return soundfile.read(file, dtype="float32", always_2d=True)


def many(count: int) -> Iterator[tuple[str, bytes]]:
    """Synthetic fingerprints; every tenth is a copy of one among the first tenth."""
    rng, known = np.random.default_rng(0), []
    for index in range(count):
        if index % 10 == 9:
            bits = known[index // 10] ^ np.packbits(rng.random(2048) < 0.08)
        else:
            bits = rng.integers(0, 256, 256, dtype=np.uint8)
        if len(known) < count // 10:
            known.append(bits)
        yield str(index), np.float32(30).tobytes() + bits.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--seconds", type=float, default=10.24)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--prints", type=int, default=200_000)
    options = parser.parse_args()

    prints, of, judging, judged_seconds = {}, {}, 0.0, 0.0
    for parts in islice(stretches(options.folder, options.seconds), options.count):
        for name, audio, rate in parts:
            start = time.process_time()
            prints[name] = judged(audio, rate).fingerprint
            judging += time.process_time() - start
            judged_seconds += len(audio) / rate
        name, audio, rate = parts[0]
        if prints[name]:
            for kind, *copy in copies(audio, rate):
                of.setdefault(kind, {})[name] = judged(*copy).fingerprint
    false = duplicates(prints.items())
    for one, other in false.items():
        print(f"taken for one: {one} and {other}")
    misses = {}
    for kind, copied in of.items():
        # Each alone with its original: a copy of a copy must not help.
        found = [duplicates([("a", prints[name]), ("b", copy)]) for name, copy in copied.items()]
        misses[kind] = 1 - len([pair for pair in found if pair]) / len(found)
        print(f"{kind:20} {misses[kind]:6.1%} missed of {len(found)}")
    none = sum(not each for each in prints.values())
    print(f"{len(false)} of {len(prints)} stretches taken for another, {none} have no fingerprint")
    speed = judged_seconds / judging
    print(f"judging: {speed:.0f} times real time on one core, in blocks of {BLOCK} frames")

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = duplicates(many(options.prints))
    seconds = time.process_time() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    share = len(found) / (options.prints // 10)
    print(
        f"{options.prints} fingerprints: {share:.2%} found, {seconds:.1f} s, {memory:.0f} MiB more"
    )
    figures = dict(misses=misses, false=len(false), stretches=len(prints), times_real_time=speed)
    print(json.dumps(figures | dict(prints=options.prints, seconds=seconds, mebibytes=memory)))


if __name__ == "__main__":
    main()
