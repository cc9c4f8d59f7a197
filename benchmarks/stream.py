"""How much audio one CPU-second reads: our stream, tars of PCM, and FLAC files.

    python -m benchmarks.stream [--minutes 20] [--rounds 5]

It makes its own files. All readers take turns in one process and on one page cache, and yield the
same int16 audio in batches of the same size. The peers read in order, from files of one clip each,
and without worker processes, which would cost them more. CPU-seconds are those of all threads.
WebDataset and PyTorch are needed (`pip install webdataset torch`).
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import soundfile

from benchmarks.data_sets import machine, write_latents, write_waveforms
from configs import jen1, jen1_fast
from data_pipeline import stream
from data_pipeline.layout import SAMPLE_RATE

SECONDS, CROP = 10.24, 0.68  # of a clip and of a crop of the preset `jen1`
CLIPS, ROWS = 16, 64  # rows of a batch: of clips, and of crops and latents
AIMS = {
    "waveform_vs_pcm_tar": 1,
    "waveform_vs_flac": 5,
    "crops_per_cpu_second": 2000,
    "latents_vs_flac": 20,
    "fast_latents_vs_flac": 100,
}


def latents_of(preset) -> tuple[float, int, int]:
    """Seconds, frames and channels of a clip of latents of a preset."""
    config = preset.get_config()
    frames = round(config.data.seconds * SAMPLE_RATE / np.prod(config.autoencoder.strides))
    return (
        config.data.seconds,
        frames,
        int(config.whitening.keep * config.autoencoder.latent_channels),
    )


def write_tars(folder: Path, made: list[dict], clips: int, per_tar: int = 64) -> list[str]:
    """The clips as int16 PCM with a caption and metadata, in tars as WebDataset reads them."""
    folder.mkdir()
    for first in range(0, clips, per_tar):
        with tarfile.open(folder / f"{first // per_tar:05d}.tar", "w") as tar:
            for number in range(first, min(first + per_tar, clips)):
                parts = {
                    "pcm": made[number % len(made)]["audio"].tobytes(),
                    "txt": f"noise number {number}".encode(),
                    "json": json.dumps({"number": number}).encode(),
                }
                for suffix, content in parts.items():
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return sorted(map(str, folder.glob("*.tar")))


def write_flac(folder: Path, made: list[dict]) -> list[str]:
    folder.mkdir()
    for number, clip in enumerate(made):
        soundfile.write(folder / f"{number}.flac", clip["audio"], SAMPLE_RATE)
    return sorted(map(str, folder.glob("*.flac")))


def tar_reader(tars: list[str]) -> Iterator:
    """Batches by WebDataset."""
    import webdataset

    def clip(sample):
        audio = np.frombuffer(sample["pcm"], np.int16).reshape(-1, 2)
        return audio, sample["txt"].decode(), sample["json"].decode()

    def collate(rows):
        audio, captions, meta = zip(*rows, strict=True)
        return np.stack(audio), captions, meta

    whole = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    return iter(whole.repeat().map(clip).batched(CLIPS, collation_fn=collate))


def flac_reader(files: list[str]) -> Iterator:
    """Batches by a DataLoader whose data set decodes with soundfile."""
    import torch.utils.data

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(files) * 1000

        def __getitem__(self, number):
            return torch.from_numpy(soundfile.read(files[number % len(files)], dtype="int16")[0])

    return iter(torch.utils.data.DataLoader(Files(), batch_size=CLIPS))


def cpu_seconds(batches: Iterator, count: int) -> float:
    """Of all threads, for one batch."""
    for _ in islice(batches, 2):
        pass
    _settle()
    began = time.process_time()
    for _ in islice(batches, count):
        pass
    return (_settle() - began) / count


def _settle() -> float:
    """Waits until nothing is read ahead any more, and returns the CPU-seconds of this process."""
    while True:
        before = time.process_time()
        time.sleep(0.1)
        if (now := time.process_time()) - before < 0.002:
            return now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="of waveforms")
    parser.add_argument("--latents", type=int, default=512, help="clips of latents of each preset")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=16, help="of whole clips in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        readers = write(Path(temporary), round(options.minutes * 60 / SECONDS), options.latents)
        open_batches = {name: make() for name, (make, _) in readers.items()}
        took: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.rounds):
            for name, batches in open_batches.items():
                took[name].append(
                    cpu_seconds(batches, options.batches * (1 if "clips" in name else 4))
                )
    speed = {name: audio / median(took[name]) for name, (_, audio) in readers.items()}
    print(f"{'audio-seconds per CPU-second':40} {'median':>9} {'smallest':>9} {'largest':>9}")
    for name, (_, audio) in readers.items():
        each = [speed[name], audio / max(took[name]), audio / min(took[name])]
        print(f"{name:40}" + "".join(f" {value:9.0f}" for value in each))
    flac = speed["clips, FLAC, DataLoader"]
    figures = {
        "waveform_vs_pcm_tar": speed["clips, stream"] / speed["clips, PCM in tars, WebDataset"],
        "waveform_vs_flac": speed["clips, stream"] / flac,
        "crops_per_cpu_second": speed["crops, stream"] / CROP,
        "latents_vs_flac": speed["latents of jen1, stream"] / flac,
        "fast_latents_vs_flac": speed["latents of jen1_fast, stream"] / flac,
    }
    for name, value in figures.items():
        print(f"{name:40} {value:9.1f}, aim {AIMS[name]}")
    print(machine())
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def write(
    folder: Path, clips: int, latents: int
) -> dict[str, tuple[Callable[[], Iterator], float]]:
    """The files, and by name what opens a reader and how many seconds of audio its batch has."""
    made = write_waveforms(folder / "waveforms", clips, SECONDS)
    tars, files = write_tars(folder / "tars", made, clips), write_flac(folder / "flac", made)
    flac, whole = (
        sum(Path(file).stat().st_size for file in files),
        sum(m["audio"].nbytes for m in made),
    )
    print(f"{clips} clips of {SECONDS} s; FLAC has {flac / whole:.0%} of the size of PCM")
    ours = lambda name, rows, **more: stream.batches(str(folder / name), "train", rows, **more)
    readers: dict[str, tuple[Callable[[], Iterator], float]] = {
        "clips, stream": (lambda: ours("waveforms", CLIPS), CLIPS * SECONDS),
        "clips, PCM in tars, WebDataset": (lambda: tar_reader(tars), CLIPS * SECONDS),
        "clips, FLAC, DataLoader": (lambda: flac_reader(files), CLIPS * SECONDS),
        "crops, stream": (
            lambda: ours("waveforms", ROWS, crop=round(CROP * SAMPLE_RATE)),
            ROWS * CROP,
        ),
    }
    for name, preset in (("jen1", jen1), ("jen1_fast", jen1_fast)):
        seconds, frames, k = latents_of(preset)
        write_latents(folder / name, latents, seconds, frames, k)
        make = lambda name=name: ours(name, ROWS)
        readers[f"latents of {name}, stream"] = make, ROWS * seconds
    return readers


if __name__ == "__main__":
    main()
