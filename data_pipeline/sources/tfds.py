"""The source that reads an existing TFDS data set with an audio feature."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from data_pipeline._tf import tfds
from data_pipeline.sidecars import read_text
from data_pipeline.sources.fields import described
from data_pipeline.sources.items import Entry, Item, Rejection
from jen1_numpy.errors import Refusal

CAPTIONS = ("caption", "captions", "text", "description")
SAMPLE_RATE = 48_000
_SPLITS = {"train": "train", "test": "test", "validation": "test"}
_MODULES = "tensorflow_datasets.core.features."  # of the features whose code is in TFDS


@dataclass(frozen=True)
class Tfds:
    """The examples of a data set; an id is its split, and its number in it.

    `train` and `test` stay what they are, and `validation` counts as test; without either of these
    two, no example has a split. Features named in `CAPTIONS` are captions, and the other texts,
    numbers and classes are metadata. TFRecord files are read from their start for each example, so
    ArrayRecord files are faster.
    """

    folder: Path

    def entries(self) -> Iterator[Entry]:
        for split, info in _open(self.folder)[0].info.splits.items():
            for index in range(info.num_examples):
                yield Entry(f"{split}/{index}", [split, index])

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        builder, name = _open(self.folder)
        split, index = entries[0].place
        try:
            example = _example(builder, split, index)
        except Exception as error:  # of many kinds: TensorFlow's, TFDS's and those of decoders
            return Rejection(id, "undecodable", str(error)[:1000])
        audio, features = np.asarray(example.pop(name)), builder.info.features
        rate = getattr(features[name], "sample_rate", None) or example.get("sample_rate")
        if rate is None or not 4_000 <= (rate := int(rate)) <= 768_000:
            return Rejection(id, "absurd sample rate", f"{rate} Hz")
        if not audio.ndim or audio.dtype.kind not in "iuf":
            return Rejection(id, "undecodable", f"{name} holds no samples")
        if audio.shape[1:] not in ((), (1,), (2,)):
            return Rejection(id, "more than two channels", f"its shape is {audio.shape}")
        if not np.isfinite(audio).all():
            return Rejection(id, "NaN or Inf")
        said = {key: _value(features[key], value) for key, value in example.items()}
        fields = {key: value for key, value in said.items() if value not in (None, "", [])}
        fields["captions"] = [
            text
            for key in CAPTIONS
            for value in [fields.pop(key, [])]
            for text in (value if isinstance(value, list) else [str(value)])
        ]
        if split in _SPLITS and set(builder.info.splits) & {"test", "validation"}:
            fields["split"] = _SPLITS[split]
        found = described(id, partial(_rendered, audio, rate), [fields])
        digest = hashlib.sha256(audio.tobytes()).hexdigest()
        return replace(found, digest=digest) if isinstance(found, Item) else found


@lru_cache(maxsize=1)
def _open(folder: Path) -> tuple[Any, str]:
    """The data set's builder, and the name of the audio feature; runs no code of the data set."""
    try:
        features = json.loads(read_text(folder / "features.json") or "{}")
        for name in _classes(features):
            if not name.startswith(_MODULES):
                raise ValueError(f"its feature {name} is not one of TFDS's own")
        builder = tfds.builder_from_directory(folder)
        named = dict(builder.info.features.items())
    except Exception as error:  # of many kinds
        raise Refusal(f"Cannot read {folder} as a TFDS data set: {error}.") from None
    if "valid_samples" in named:
        raise Refusal(f"{folder} is a prepared data set; train with it, or encode it.")
    kinds = {name: type(feature).__name__ for name, feature in named.items()}
    audio = [name for name, kind in kinds.items() if kind == "Audio"]
    audio += [name for name in ("audio", "waveform") if kinds.get(name) == "Tensor"]
    if not audio:
        raise Refusal(f"{folder} has no feature with audio; its features are {', '.join(named)}.")
    return builder, audio[0]


def _classes(features: Any) -> Iterator[str]:
    """The names of all classes in a features.json, however deep."""
    if isinstance(features, dict):
        if isinstance(name := features.get("pythonClassName"), str):
            yield name
        features = list(features.values())
    if isinstance(features, list):
        for inner in features:
            yield from _classes(inner)


def _example(builder, split: str, index: int) -> dict:
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return dict(_records(builder, split)[index])
    (example,) = tfds.as_numpy(builder.as_dataset(split=f"{split}[{index}:{index + 1}]"))
    return dict(example)


@lru_cache(maxsize=8)
def _records(builder, split: str):
    return builder.as_data_source(split)


def _value(feature, value: Any) -> Any:
    """A text, a number or a list of texts as JSON; None for all else."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if hasattr(feature, "int2str") and np.ndim(value) == 0:
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, dict) or np.ndim(value) > 1:
        return None
    if np.ndim(value) == 1:
        texts = [text for text in value if isinstance(text, bytes)]
        return [text.decode(errors="replace") for text in texts] or None
    value = np.asarray(value).item()
    return value if isinstance(value, bool | int) or np.isfinite(value) else None


def _rendered(audio: np.ndarray, rate: int) -> np.ndarray:
    """Float32 [samples, 2] at 48 kHz.

    Whole numbers are samples of 16 bits, or of 32 bits if one of them is larger.
    """
    if not np.issubdtype(audio.dtype, np.floating):
        peak = int(np.abs(audio.astype(np.int64)).max(initial=0))
        audio = audio / (2**15 if peak <= 2**15 else 2**31)
    audio = audio.astype(np.float32).reshape(len(audio), -1)
    if rate != SAMPLE_RATE:
        audio = soxr.resample(audio, rate, SAMPLE_RATE)
    return np.ascontiguousarray(np.broadcast_to(audio, (len(audio), 2)))
