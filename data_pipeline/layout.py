"""The data set on disk: TFDS metadata and ArrayRecord shards, readable with TFDS alone.

A record of a waveform data set is a block of a clip, 1 to 2 s long, so that a crop or a clip's
neighbours are read without the rest. The blocks of a clip follow each other in one shard. Each
holds
    audio: int16 [samples, 2] at 48 kHz, of the block.
    block: its number in its clip.
    valid_samples: how many samples of the clip are audio; the rest are zeros.
    id: of the clip's file and its place there, "FILE@SECONDS".
    captions: one or more texts that each describe the clip; one empty text if there is none.
    meta: other metadata as JSON.
    start, total: the seconds at which the clip begins in its file, and those that the file lasts.
A record of latents is a clip, with `latents` float16 [frames, k] and `valid_frames` instead of the
first three. The clips of a file follow each other in the order of time. All records have the same
size and are not compressed, since PCM hardly becomes smaller and reading must be fast.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

if TYPE_CHECKING:
    from tensorflow_datasets.features import FeaturesDict

SAMPLE_RATE = 48_000
NAME = "jen1"
TOLERANCE = 0.01  # seconds: resampling rounds, and so does float32 in a long file
VERSION = "3.0.0"  # of the features and their meaning; readers refuse another major version
REPAIR, REPAIRED = ".repair", "files.json"  # a folder of `repair`, and the list that ends it
PIECES = "pieces"  # a folder with a file a unit, and a line a recording
LAYOUT = "layout.json"  # {"blocks": records of a clip}
FINGERPRINT = "fingerprint.json"
LICENCES = "licences.json"  # licence -> training clips; "" stands for none stated
EMBEDDINGS = "embeddings-*.safetensors"


def blocks_of(samples: int) -> int:
    """Into how many blocks a clip is divided: as many as can be of equal length of 1 s or more."""
    most = max(samples // SAMPLE_RATE, 1)
    return next(count for count in range(most, 0, -1) if samples % count == 0)


def waveform_features(samples: int) -> "FeaturesDict":
    """The features of a record, for clips of so many samples."""
    audio = (samples // blocks_of(samples), 2)
    return _features("audio", audio, np.int16, block=np.int32, valid_samples=np.int32)


def latent_features(frames: int, k: int) -> "FeaturesDict":
    return _features("latents", (frames, k), np.float16, valid_frames=np.int32)


def _features(name: str, shape: tuple[int, int], dtype, **others) -> "FeaturesDict":
    from data_pipeline._tf import tfds  # in 2 s, which processes that prepare units do without

    data = tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
    text = tfds.features.Text()
    captions = tfds.features.Sequence(text)
    about = dict(captions=captions, id=text, meta=text, start=np.float32, total=np.float32)
    return tfds.features.FeaturesDict({name: data} | others | about)


@dataclass(frozen=True)
class Info:
    """What a data set holds."""

    folder: Path
    kind: str  # "waveform" or "latents"
    examples: Mapping[str, int]  # clips, by split
    shape: tuple[int, int]  # of one clip: [samples, 2] or [frames, k]
    blocks: int  # records of one clip
    shards: Mapping[str, tuple[int, ...]]  # records of each shard, by split
    fingerprint: Mapping | None  # of the encoder; None for waveforms
    licences: Mapping[str, int]  # training clips by licence; empty if they were not counted

    @property
    def data_fields(self) -> tuple[str, str]:
        """The field with the data, and that with how much of it is valid."""
        if self.kind == "waveform":
            return "audio", "valid_samples"
        return "latents", "valid_frames"

    @property
    def seconds(self) -> float | None:
        """Of one clip; None for latents."""
        return self.shape[0] / SAMPLE_RATE if self.kind == "waveform" else None

    def shard(self, split: str, number: int) -> Path:
        """The file of a shard."""
        of = len(self.shards[split])
        return self.folder / f"{NAME}-{split}.array_record-{number:05d}-of-{of:05d}"


def info(folder: str) -> Info:
    """What the data set in `folder` holds. Raises Refusal if there is none that can be read."""
    from data_pipeline._tf import tfds

    if folder.startswith("gs://"):
        raise Refusal(
            f"{folder} is in a bucket, and ArrayRecord files are read from local folders alone: "
            "mount it (gcsfuse --implicit-dirs BUCKET FOLDER) or copy it, and give the local path."
        )
    path = local(folder)  # TFDS would try to read a URL
    if (path / REPAIR / REPAIRED).exists():
        raise Refusal(
            f"A repair of {folder} was interrupted; give `jen1 data validate {folder} --repair`."
        )
    try:
        about = tfds.builder_from_directory(folder).info
        known = {"audio", "latents"} & set(about.features or ())
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
    version, major = about.version, VERSION.split(".")[0]
    if version.major != int(major):
        raise Refusal(
            f"{folder} is a data set of version {version}, and only versions {major}.x.x can be "
            "read; prepare it again, and encode latents again."
        )
    kind = "waveform" if "audio" in known else "latents"
    rows, channels = about.features["audio" if kind == "waveform" else "latents"].shape
    blocks = _object(path / LAYOUT).get("blocks")
    if type(blocks) is not int or blocks < 1:
        raise Refusal(f"{path / LAYOUT} is missing or damaged; copy it again, or prepare again.")
    shards = {name: tuple(split.shard_lengths) for name, split in about.splits.items()}
    return Info(
        path,
        kind,
        {name: sum(lengths) // blocks for name, lengths in shards.items()},
        (rows * blocks, channels),
        blocks,
        shards,
        _fingerprint(path / FINGERPRINT),
        _licences(path / LICENCES),
    )


def _object(path: Path) -> dict:
    """The JSON object in a file; empty if there is none."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _fingerprint(path: Path) -> dict | None:
    """That of the encoder; None for waveforms."""
    if not path.exists():
        return None
    if found := _object(path):
        return found
    raise Refusal(f"{path} is damaged; copy it again, or encode again.")


def _licences(path: Path) -> dict[str, int]:
    """What the preparation has counted; empty for a data set without counts."""
    if not path.exists():
        return {}
    found = _object(path)
    if not found or not all(type(each) is int for each in found.values()):
        raise Refusal(f"{path} is damaged: delete it, and the licences count as unknown.")
    return found


def pieces(folder: str) -> Iterator[dict]:
    """What the data set says of each recording: its id, split, first clip there, captions, ...

    Raises:
        Refusal: there are no pieces, or a line is damaged.
    """
    paths = sorted((local(folder) / PIECES).glob("*.jsonl"))
    if not paths:
        raise Refusal(f"{local(folder) / PIECES} is missing; copy it again, or prepare again.")
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            try:
                for row in map(json.loads, lines):
                    if not isinstance(row, dict):
                        raise ValueError("a line is no object")
                    yield row
            except (ValueError, RecursionError) as error:
                raise Refusal(f"{path} is damaged ({error}); copy it again.") from None


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
    apart = np.diff(np.asarray(starts, float), axis=0)
    return (files[1:] == files[:-1]) & (np.abs(apart - seconds) < TOLERANCE)
