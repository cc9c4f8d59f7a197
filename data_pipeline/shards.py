"""The data set on disk: TFDS metadata around ArrayRecord shards, readable by plain tensorflow-datasets.

Two kinds, told apart by their features. Waveforms: `audio` int16 [samples, 2] at 48 kHz, `valid_samples` (the rest is zero
padding), `caption`, `id`, `meta` (JSON), `start` and `total` (seconds: where in its file it begins, and of
the whole file). Latents: `latents` float16 [frames, k], `valid_frames` and the same others; see `latents`. Records are fixed in
size and not compressed: PCM hardly shrinks, and reading must be fast.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipeline._tf import tfds
from jen1_jax.errors import Refusal
from jen1_jax.files import local

SAMPLE_RATE = 48_000
SHARD_BYTES = 256 * 2**20
NAME = "jen1"
FINGERPRINT = "fingerprint.json"
EMBEDDINGS = "embeddings.safetensors"


def waveform_features(samples: int) -> tfds.features.FeaturesDict:
    audio = tfds.features.Tensor(shape=(samples, 2), dtype=np.int16, encoding="bytes")
    return tfds.features.FeaturesDict(dict(audio=audio, valid_samples=np.int32) | _about())


def latent_features(frames: int, k: int) -> tfds.features.FeaturesDict:
    latents = tfds.features.Tensor(shape=(frames, k), dtype=np.float16, encoding="bytes")
    return tfds.features.FeaturesDict(dict(latents=latents, valid_frames=np.int32) | _about())


def _about() -> dict:
    return {name: tfds.features.Text() for name in ("caption", "id", "meta")} | dict(
        start=np.float32, total=np.float32
    )


@dataclass
class Writer:
    """Appends examples to the splits of a new data set in `folder`; use as a context manager, which writes the metadata."""

    folder: Path
    features: tfds.features.FeaturesDict
    description: str
    _shards: dict[str, list[list[int]]] = field(
        default_factory=dict
    )  # split -> [examples, bytes] of each shard
    _files: dict[str, ArrayRecordWriter] = field(default_factory=dict)

    def __enter__(self) -> "Writer":
        return self

    def write(self, split: str, example: Mapping) -> None:
        record = self.features.serialize_example(dict(example))
        shards = self._shards.setdefault(split, [])
        if not shards or shards[-1][1] + len(record) > SHARD_BYTES:
            if shards:
                self._files[split].close()
            self._files[split] = ArrayRecordWriter(
                str(self._part(split, len(shards))), "group_size:1,uncompressed"
            )
            shards.append([0, 0])
        self._files[split].write(record)
        shards[-1][0] += 1
        shards[-1][1] += len(record)

    def _part(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number}.part"

    def __exit__(self, kind, *_) -> None:
        for file in self._files.values():
            file.close()
        if kind is not None:
            return
        infos = []
        for split, shards in self._shards.items():
            template = tfds.core.ShardedFileTemplate(
                data_dir=self.folder, dataset_name=NAME, split=split, filetype_suffix="array_record"
            )
            for number in range(len(shards)):
                name = template.sharded_filepath(shard_index=number, num_shards=len(shards))
                os.replace(self._part(split, number), name)
            lengths, size = [examples for examples, _ in shards], sum(size for _, size in shards)
            infos.append(
                tfds.core.SplitInfo(
                    name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
                )
            )
        tfds.folder_dataset.write_metadata(
            data_dir=self.folder,
            features=self.features,
            split_infos=infos,
            description=self.description,
            check_data=False,
        )  # check_data reads with as_dataset, which TFDS does not have for array_record


@dataclass(frozen=True)
class Info:
    """What a data set holds: `kind` is "waveform" or "latents"; `shape` one record's [samples, 2] or [frames, k].

    `seconds` is a waveform's length, None for latents; `fingerprint` is what `encode` was given, None for waveforms.
    """

    kind: str
    examples: Mapping[str, int]
    shape: tuple[int, int]
    seconds: float | None
    fingerprint: Mapping | None


def info(folder: str) -> Info:
    """What the data set in `folder` holds. Raises Refusal where there is none."""
    builder = _builder(folder)
    kind = "waveform" if "audio" in builder.info.features else "latents"
    shape = builder.info.features["audio" if kind == "waveform" else "latents"].shape
    examples = {name: split.num_examples for name, split in builder.info.splits.items()}
    path = Path(folder) / FINGERPRINT
    fingerprint = json.loads(path.read_text()) if path.exists() else None
    return Info(
        kind,
        examples,
        tuple(shape),
        shape[0] / SAMPLE_RATE if kind == "waveform" else None,
        fingerprint,
    )


def features(folder: str) -> tfds.features.FeaturesDict:
    """The features of the data set in `folder`; their `deserialize_example_np` decodes what `records` reads."""
    return _builder(folder).info.features


def _builder(folder: str):
    local(folder)  # TFDS would try to read a URL
    try:
        builder = tfds.builder_from_directory(folder)
        known = {"audio", "latents"} & set(builder.info.features or ())
    except (
        Exception
    ) as error:  # TFDS has no exception of its own for a folder that is not a data set
        reason = (
            "there is no dataset_info.json in it"
            if not (Path(folder) / "dataset_info.json").exists()
            else str(error)
        )
        raise Refusal(
            f"{folder} is not a prepared data set ({reason}); make one with `jen1 data prepare`."
        ) from None
    if not known:
        raise Refusal(
            f"{folder} is a TFDS data set, but holds neither audio nor latents; make one with `jen1 data prepare`."
        )
    if "total" not in builder.info.features:
        raise Refusal(
            f"{folder} does not say how long its pieces are (`total`); prepare it again, and encode latents again."
        )
    return builder


def records(folder: str, split: str) -> Callable[[list[int]], list[bytes]]:
    """A function that reads the serialised records at a list of positions. Raises Refusal without such a split."""
    builder = _builder(folder)
    if split not in builder.info.splits:
        raise Refusal(
            f"{folder} has no split {split!r}, only {', '.join(builder.info.splits) or 'none'}."
        )
    source = builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    return source.__getitems__
