"""The data set on disk: TFDS metadata and ArrayRecord shards, readable with TFDS alone.

A record of a waveform data set holds:
    audio: int16 [samples, 2] at 48 kHz.
    valid_samples: how many of them are audio; the rest are zeros.
    id: of its file and its place there, "FILE@SECONDS".
    captions: one or more texts that each describe it; one empty text if there is none.
    meta: other metadata as JSON.
    start, total: the seconds at which it begins in its file, and those that the file lasts.
Latents hold `latents` float16 [frames, k] and `valid_frames` instead of the first two. The records
of a file follow each other in the order of time. All records have the same size and are not
compressed, since PCM hardly becomes smaller and reading must be fast.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from numpy.typing import ArrayLike

from data_pipeline._tf import tfds
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

SAMPLE_RATE = 48_000
SHARD_BYTES = 256 * 2**20
NAME = "jen1"
VERSION = "2.0.0"  # of the features and their meaning; readers refuse another major version
FINGERPRINT = "fingerprint.json"
LICENCES = "licences.json"  # licence -> training clips; "" stands for none stated
EMBEDDINGS = "embeddings-*.safetensors"


def waveform_features(samples: int) -> tfds.features.FeaturesDict:
    audio = tfds.features.Tensor(shape=(samples, 2), dtype=np.int16, encoding="bytes")
    return tfds.features.FeaturesDict(dict(audio=audio, valid_samples=np.int32) | _about())


def latent_features(frames: int, k: int) -> tfds.features.FeaturesDict:
    latents = tfds.features.Tensor(shape=(frames, k), dtype=np.float16, encoding="bytes")
    return tfds.features.FeaturesDict(dict(latents=latents, valid_frames=np.int32) | _about())


def _about() -> dict:
    text = tfds.features.Text()
    captions = tfds.features.Sequence(text)
    return dict(captions=captions, id=text, meta=text, start=np.float32, total=np.float32)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Array_record raises RuntimeError where the disk is full."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


@dataclass
class Writer:
    """Appends examples to the splits of a new data set in `folder`.

    It is a context manager, which writes the metadata at the end. `written` is what `pause` of an
    earlier writer in this folder returned; the data set then begins with what that one had written.
    """

    folder: Path
    features: tfds.features.FeaturesDict
    description: str
    written: Mapping | None = None  # shards and licences
    _files: dict[str, ArrayRecordWriter] = field(default_factory=dict)

    def __post_init__(self):
        written = self.written or {"shards": {}, "licences": {}}
        # split -> [examples, bytes] of each shard
        self._shards: dict[str, list[list[int]]] = written["shards"]
        self._licences = Counter(written["licences"])

    def __enter__(self) -> "Writer":
        return self

    def write(self, split: str, example: Mapping) -> None:
        record = self.features.serialize_example(dict(example))
        shards = self._shards.setdefault(split, [])
        if split not in self._files or shards[-1][1] + len(record) > SHARD_BYTES:
            with _as_os_error():
                if split in self._files:
                    self._files.pop(split).close()
                self._files[split] = ArrayRecordWriter(
                    str(self._part(split, len(shards))), "group_size:1,uncompressed"
                )
            shards.append([0, 0])
        with _as_os_error():
            self._files[split].write(record)
        shards[-1][0] += 1
        shards[-1][1] += len(record)
        if split == "train":
            self._licences[_licence(json.loads(example["meta"]))] += 1

    def pause(self) -> dict:
        """Completes the shards of all examples so far, and returns what they hold."""
        with _as_os_error():
            while self._files:
                self._files.popitem()[1].close()
        return {"shards": self._shards, "licences": dict(self._licences)}

    def _part(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number}.part"

    def __exit__(self, kind, *_) -> None:
        self.pause()
        if kind is not None:
            return
        infos = []
        for split, shards in self._shards.items():
            template = tfds.core.ShardedFileTemplate(
                data_dir=self.folder, dataset_name=NAME, split=split, filetype_suffix="array_record"
            )
            for number in range(len(shards)):
                name = template.sharded_filepath(shard_index=number, num_shards=len(shards))
                if self._part(split, number).exists():  # no earlier call has come as far
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
            version=VERSION,
            description=self.description,
            check_data=False,  # it would use as_dataset, which TFDS lacks for array_record
        )
        licences = dict(self._licences.most_common())
        (self.folder / LICENCES).write_text(json.dumps(licences, indent=1) + "\n")


def _licence(meta: Mapping) -> str:
    """The field `licence`, in one line of at most 80 characters; "" if it is no text."""
    stated = meta.get("licence")
    return " ".join(stated.split())[:80] if isinstance(stated, str) else ""


def _counted(path: Path) -> dict[str, int]:
    """What `Writer` has counted; empty for a data set without counts."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not all(type(each) is int for each in found.values()):
            raise ValueError("it holds no counts")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise Refusal(
            f"{path} is damaged ({error}); delete it, and the licences count as unknown."
        ) from None
    return found


@dataclass(frozen=True)
class Info:
    """What a data set holds."""

    kind: str  # "waveform" or "latents"
    examples: Mapping[str, int]  # by split
    shape: tuple[int, int]  # of one record: [samples, 2] or [frames, k]
    seconds: float | None  # of one record; None for latents
    fingerprint: Mapping | None  # of the encoder; None for waveforms
    licences: Mapping[str, int]  # training clips by licence; empty if they were not counted

    @property
    def data_fields(self) -> tuple[str, str]:
        """The field with the data, and that with how much of it is valid."""
        if self.kind == "waveform":
            return "audio", "valid_samples"
        return "latents", "valid_frames"


def info(folder: str) -> Info:
    """What the data set in `folder` holds. Raises Refusal if there is none that can be read."""
    builder = _builder(folder)
    kind = "waveform" if "audio" in builder.info.features else "latents"
    shape = builder.info.features["audio" if kind == "waveform" else "latents"].shape
    examples = {name: split.num_examples for name, split in builder.info.splits.items()}
    fingerprint = Path(folder, FINGERPRINT)
    return Info(
        kind,
        examples,
        tuple(shape),
        shape[0] / SAMPLE_RATE if kind == "waveform" else None,
        json.loads(fingerprint.read_text()) if fingerprint.exists() else None,
        _counted(Path(folder, LICENCES)),
    )


def decoder(folder: str) -> Callable[[bytes], dict]:
    """A function from a record of `folder`, as `records` reads it, to the example in it.

    The example is as `Writer.write` takes it.
    """
    decode = _builder(folder).info.features.deserialize_example_np

    def decoded(record: bytes) -> dict:
        example = decode(record)
        captions = [caption.decode() for caption in example["captions"]]
        text = {name: example[name].decode() for name in ("id", "meta")}
        return example | text | {"captions": captions}

    return decoded


def _builder(folder: str):
    path = local(folder)  # TFDS would try to read a URL
    try:
        builder = tfds.builder_from_directory(folder)
        known = {"audio", "latents"} & set(builder.info.features or ())
    except Exception as error:  # TFDS raises many kinds for a folder that is no data set
        absent = not (path / "dataset_info.json").exists()
        reason = "there is no dataset_info.json in it" if absent else str(error)
        raise Refusal(
            f"{folder} is not a prepared data set ({reason}); make one with `jen1 data prepare`."
        ) from None
    if not known:
        raise Refusal(
            f"{folder} is a TFDS data set, but holds neither audio nor latents; "
            "make one with `jen1 data prepare`."
        )
    version, major = builder.info.version, VERSION.split(".")[0]
    if version.major != int(major):
        raise Refusal(
            f"{folder} is a data set of version {version}, and only versions {major}.x.x can be "
            "read; prepare it again, and encode latents again."
        )
    return builder


def records(folder: str, split: str) -> Callable[[list[int]], list[bytes]]:
    """A function from a list of positions to the serialised records there.

    Raises:
        Refusal: there is no such data set or split.
    """
    builder = _builder(folder)
    if split not in builder.info.splits:
        raise Refusal(
            f"{folder} has no split {split!r}, only {', '.join(builder.info.splits) or 'none'}."
        )
    source = builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    return source.__getitems__


def examples(folder: str, split: str, places: Iterable[int] | None = None) -> Iterator[dict]:
    """The decoded examples of a split at `places`, or all in order."""
    read, decode = records(folder, split), decoder(folder)
    for place in range(info(folder).examples[split]) if places is None else places:
        yield decode(read([place])[0])


def piece_of(id: str) -> str:
    """The piece of a clip, from the clip's id."""
    return id.rpartition("@")[0]


def adjoining(ids: ArrayLike, starts: ArrayLike, seconds: float) -> np.ndarray:
    """Whether each clip is directly followed by the next one of the same file, bool [n - 1, ...].

    Two clips between which a silent one was dropped do not adjoin.

    Args:
        ids: of the clips, bytes [n, ...].
        starts: seconds at which they begin in their files, [n, ...].
        seconds: the length of a clip.
    """
    files = np.frompyfunc(lambda id: id.rpartition(b"@")[0], 1, 1)(np.asarray(ids, object))
    numbers = np.round(np.asarray(starts) / seconds)
    return (files[1:] == files[:-1]) & (numbers[1:] == numbers[:-1] + 1)
