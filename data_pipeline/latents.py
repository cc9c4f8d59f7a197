"""Clips to latents: every clip is encoded once, and its texts are kept.

The latents at both ends of a clip depend on the audio beyond them. Each clip is therefore encoded
together with the adjoining clips of its piece.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.embeddings import Embed, write_embeddings
from data_pipeline.layout import (
    FINGERPRINT,
    SAMPLE_RATE,
    Info,
    adjoining,
    info,
    latent_features,
)
from data_pipeline.reading import examples
from data_pipeline.writing import Writer
from jen1_jax.files import whole_folder
from jen1_numpy.errors import Refusal

GROUP = 4  # batches of clips that are encoded at a time, those with neighbours on the same sides


@dataclass(frozen=True)
class Encoder:
    """What makes latents of clips, and embeddings of captions.

    Args:
        encode: audio float32 [batch_size, frames * hop, 2] and how many samples of each are audio,
            [batch_size] -> whitened latents [batch_size, frames, k]. There are at most four numbers
            of frames: a clip is padded to whole hops and has none, one or two neighbours.
        fingerprint: JSON values that identify the encoder (and the text encoder), written to
            fingerprint.json.
        around: frames of the adjoining clips on each side that are encoded with a clip and then
            cut off. With the encoder's receptive field, a clip of whole hops has the latents that
            it has in its piece.
        embed: captions -> (embedding [n, tokens, d], lengths [n]); None stores only captions.
    """

    encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
    fingerprint: Mapping
    k: int
    hop: int
    around: int = 0
    embed: Embed | None = None
    batch_size: int = 8


def encode(
    folder: str, out: str, encoder: Encoder, progress: Callable[[str], None] = print
) -> Info:
    """Writes the latent data set `out` from the waveform data set `folder`, in the same order.

    Raises:
        Refusal: `folder` is no waveform data set, latents are not finite or of another shape, or
            `out` cannot be written.
    """
    about = info(folder)
    if about.kind != "waveform":
        raise Refusal(f"{folder} holds {about.kind}; `encode` takes a waveform data set.")
    done, total, seconds = 0, sum(about.examples.values()), about.shape[0] / SAMPLE_RATE
    began = reported = time.monotonic()
    with (
        whole_folder(out) as target,
        latent_writer(target, encoder, seconds, f"latents of {folder}", progress) as writer,
    ):
        for split in about.examples:
            for clip in examples(folder, split):
                writer.write(split, clip)
                done += 1
                if time.monotonic() - reported > 5:
                    reported = time.monotonic()
                    speed = done * seconds / (reported - began)
                    progress(f"{done}/{total} clips, {speed:.0f} times real time")
    return info(out)


@contextmanager
def latent_writer(
    folder: Path,
    encoder: Encoder,
    seconds: float,
    description: str,
    progress: Callable[[str], None],
    written: Mapping | None = None,
) -> Iterator["LatentWriter"]:
    """Writes a latent data set into `folder`, from clips of `seconds` each.

    `written` is what `LatentWriter.pause` returned in an earlier call for this folder.
    """
    shards, captions = (written["shards"], written["captions"]) if written else (None, [])
    frames = -(-round(seconds * SAMPLE_RATE) // encoder.hop)
    with Writer(folder, latent_features(frames, encoder.k), 1, description, shards) as shard_writer:
        writer = LatentWriter(shard_writer, encoder, seconds)
        writer.captions.update(captions)
        yield writer
        writer.pause()
        fingerprint = json.dumps(dict(encoder.fingerprint), indent=2, sort_keys=True)
        (folder / FINGERPRINT).write_text(fingerprint + "\n")
        if encoder.embed is not None:
            write_embeddings(folder, sorted(writer.captions), encoder.embed, progress)


class LatentWriter:
    """Takes the clips of each split in order, as `shards.Writer` does, and writes their latents.

    It holds back clips until it has `GROUP` batches of a split and the clip after them.
    """

    def __init__(self, shards: Writer, encoder: Encoder, seconds: float):
        self.captions: set[str] = set()
        self._shards, self._encoder, self._seconds = shards, encoder, seconds
        self._samples = round(seconds * SAMPLE_RATE)
        self._frames = -(-self._samples // encoder.hop)
        self._around = min(encoder.around, self._samples // encoder.hop)
        # Of each split the clips that wait, after the last one that is written.
        self._held: dict[str, list[Mapping]] = {}
        self._written: set[str] = set()

    def write(self, split: str, clip: Mapping) -> None:
        held = self._held.setdefault(split, [])
        held.append(clip)
        first = int(split in self._written)
        if len(held) > first + GROUP * self._encoder.batch_size:
            self._write(split, range(first, len(held) - 1))
            del held[: len(held) - 2]

    def pause(self) -> dict:
        """Writes all clips so far; the next one must begin a piece. Returns what is written."""
        for split, held in self._held.items():
            self._write(split, range(int(split in self._written), len(held)))
        self._held.clear()
        self._written.clear()
        return {"shards": self._shards.pause(), "captions": sorted(self.captions)}

    def _write(self, split: str, chosen: range) -> None:
        """Writes the `chosen` ones of the clips that are held; the others are neighbours."""
        clips = self._held[split]
        for place, latents in zip(chosen, self._encode(clips, chosen), strict=True):
            clip = clips[place]
            if not np.isfinite(latents).all():
                raise Refusal(
                    f"The latents of {clip['id']} are not finite in float16; check the autoencoder."
                )
            kept = {name: clip[name] for name in ("captions", "id", "meta", "start", "total")}
            valid = -(-int(clip["valid_samples"]) // self._encoder.hop)
            self._shards.write(split, dict(latents=latents, valid_frames=valid) | kept)
            self.captions.update(clip["captions"])
        self._written.add(split)

    def _encode(self, clips: Sequence[Mapping], chosen: range) -> list[np.ndarray]:
        """Latents float16 [frames, k] of the `chosen` ones of consecutive clips.

        Clips with neighbours on the same sides are encoded together.
        """
        adjoins = adjoining(
            [clip["id"].encode() for clip in clips],
            [clip["start"] for clip in clips],
            self._seconds,
        )
        size, around = self._encoder.batch_size, self._around
        groups: dict[tuple[bool, bool], list[int]] = {}
        for place in chosen:
            before = around > 0 and place > 0 and bool(adjoins[place - 1])
            after = around > 0 and place + 1 < len(clips) and bool(adjoins[place])
            groups.setdefault((before, after), []).append(place)
        encoded = {}
        for (before, after), places in groups.items():
            for batch in (places[at : at + size] for at in range(0, len(places), size)):
                encoded |= zip(batch, self._encode_batch(clips, batch, before, after), strict=False)
        return [encoded[place] for place in chosen]

    def _encode_batch(
        self, clips: Sequence[Mapping], places: Sequence[int], before: bool, after: bool
    ) -> np.ndarray:
        """Latents float16 [batch_size, frames, k] of the clips at `places`, then of zeros."""
        encoder, samples, hop = self._encoder, self._samples, self._encoder.hop
        first, length = self._around * before, self._frames + self._around * (before + after)
        audio = np.zeros((encoder.batch_size, length * hop, 2), np.float32)
        valid = np.zeros(encoder.batch_size, np.int64)
        for number, place in enumerate(places):
            row = audio[number]
            parts = [clips[place - 1]["audio"][samples - first * hop :]] if before else []
            parts += [clips[place]["audio"]]
            parts += [clips[place + 1]["audio"]] if after else []
            whole = np.concatenate(parts)[: len(row)]
            row[: len(whole)] = whole / np.float32(32767)
            valid[number] = first * hop + clips[place]["valid_samples"]
            valid[number] += clips[place + 1]["valid_samples"] if after else 0
        latents = np.asarray(encoder.encode(audio, np.minimum(valid, length * hop)))
        expected = (encoder.batch_size, length, encoder.k)
        if latents.shape != expected:
            raise Refusal(
                f"The encoder gave {latents.shape} for {encoder.batch_size} clips, not {expected}."
            )
        with np.errstate(over="ignore"):  # refused later, by name
            return latents[:, first : first + self._frames].astype(np.float16)
