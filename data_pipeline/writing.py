"""Writes the shards and the metadata of a data set."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipeline._tf import tfds
from data_pipeline.layout import LAYOUT, LICENCES, NAME, VERSION

SHARD_BYTES = 256 * 2**20


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Array_record raises RuntimeError where the disk is full."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


@dataclass
class Writer:
    """Appends clips to the splits of a new data set in `folder`.

    A clip holds what its records hold in common, and all of its audio or latents.

    It is a context manager, which writes the metadata at the end. `written` is what `pause` of an
    earlier writer in this folder returned; the data set then begins with what that one had written.
    """

    folder: Path
    features: tfds.features.FeaturesDict
    blocks: int  # records of a clip
    description: str
    written: Mapping | None = None  # shards and licences
    _files: dict[str, ArrayRecordWriter] = field(default_factory=dict)

    def __post_init__(self):
        written = self.written or {"shards": {}, "licences": {}}
        # split -> [records, bytes] of each shard
        self._shards: dict[str, list[list[int]]] = written["shards"]
        self._licences = Counter(written["licences"])

    def __enter__(self) -> "Writer":
        return self

    def write(self, split: str, example: Mapping) -> None:
        records = [self.features.serialize_example(block) for block in self._split(example)]
        size = sum(map(len, records))
        shards = self._shards.setdefault(split, [])
        if split not in self._files or shards[-1][1] + size > SHARD_BYTES:
            with _as_os_error():
                if split in self._files:
                    self._files.pop(split).close()
                self._files[split] = ArrayRecordWriter(
                    str(self._part(split, len(shards))), "group_size:1,uncompressed"
                )
            shards.append([0, 0])
        with _as_os_error():
            for record in records:
                self._files[split].write(record)
        shards[-1][0] += len(records)
        shards[-1][1] += size
        if split == "train":
            self._licences[_licence(json.loads(example["meta"]))] += 1

    def _split(self, clip: Mapping) -> Iterator[dict]:
        if "audio" not in clip:
            yield dict(clip)
            return
        for number, audio in enumerate(np.split(clip["audio"], self.blocks)):
            yield dict(clip) | {"audio": audio, "block": number}

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
            lengths, size = [records for records, _ in shards], sum(size for _, size in shards)
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
        (self.folder / LAYOUT).write_text(json.dumps({"blocks": self.blocks}) + "\n")
        (self.folder / LICENCES).write_text(json.dumps(licences, indent=1) + "\n")


def _licence(meta: Mapping) -> str:
    """The field `licence`, in one line of at most 80 characters; "" if it is no text."""
    stated = meta.get("licence")
    return " ".join(stated.split())[:80] if isinstance(stated, str) else ""
