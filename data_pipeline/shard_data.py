"""Prepared shards as what the training loop reads."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipeline import stream
from data_pipeline.caption_table import CaptionTable
from data_pipeline.damage import Damages
from data_pipeline.fetching import open_table
from data_pipeline.layout import info


class ShardData:
    """The batches of data sets, for training and in order; `description` names the data.

    Args:
        folder: a data set, or several with commas between them, which are mixed by `shares`.
        captions: a file with other captions (`caption_table`); default: the one in a data set's
            folder, if there is one.
        damages: what becomes of damaged clips in training; a pass in order refuses them.

    The other arguments are those of `stream.batches`.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int,
        seed: int,
        *,
        shares: Sequence[int] = (),
        crop: int | None = None,
        limit: int = 0,
        prefetch: int = 2,
        captions: str = "",
        damages: Damages | None = None,
    ):
        self._folders = folder.split(",")
        abouts = [info(each) for each in self._folders]
        about = abouts[0]
        self.description: dict[str, Any] = {
            "dir": folder,
            "kind": about.kind,
            "length": about.shape[0],  # of an example: samples, or latent frames
            "fields": stream.fields(about, whole=crop is None),
            "examples": dict(sum((Counter(each.examples) for each in abouts), Counter())),
            "licences": dict(sum((Counter(each.licences) for each in abouts), Counter())),
            "limit": limit,
            "seed": seed,
            "batch_size": batch_size,
        }
        self._table = CaptionTable(captions) if captions else None
        tables = [self._table or open_table(each) for each in self._folders]
        if any(tables):
            self.description["captions"] = [table and table.fingerprint for table in tables]
        if len(abouts) > 1:
            sizes = [each.examples.get("train", 0) for each in abouts]
            self.description["mixture"] = {"shares": list(shares), "examples": sizes}
        if about.fingerprint:
            self.description["fingerprint"] = about.fingerprint["autoencoder"]
            if "text" in about.fingerprint:
                self.description["text_fingerprint"] = about.fingerprint["text"]
        self._batch_size, self._limit = batch_size, limit
        self._options = {"seed": seed, "crop": crop, "limit": limit, "prefetch": prefetch}
        self._options |= {"shares": shares, "damages": damages, "table": self._table}

    def captions(self) -> list[str]:
        """The distinct captions of the training split."""
        found = {text for each in self._folders for text in stream.captions(each, "train")}
        return sorted(found.union(self._table.distinct() if self._table else ()))

    def batches(
        self, start_step: int, around: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches of the training split from `start_step` on; of each only the `rows`.

        Whole waveforms come with `around` samples of audio on both sides. See `stream.batches`.
        """
        return stream.batches(
            self._folders,
            "train",
            self._batch_size,
            start_step=start_step,
            around=around,
            rows=rows,
            **self._options,
        )

    def sweep(
        self, split: str, around: int = 0, limit: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Iterator[dict[str, np.ndarray]]:
        """One pass over the whole clips of a split in order; empty if there is no such split.

        Of all, or of at most `limit` of each data set; a `share` is that of a process, as in
        `training.loop.Data`. Waveforms are float32 in [-1, 1], and come with `around` samples of
        audio on both sides, as in `stream.batches`.
        """
        process, processes = share
        limits = [each for each in (limit, self._limit) if each]
        size = min(self._batch_size, 8)
        for folder in self._folders:
            about = info(folder)
            if split not in about.examples:
                continue
            valid = about.data_fields[1]
            for batch in stream.batches(
                folder,
                split,
                processes * size,
                rows=range(process * size, (process + 1) * size),
                shuffle=False,
                epochs=1,
                limit=min(limits, default=0),
                around=around,
                table=self._table,
            ):
                used = batch[valid] > 0  # the others are withdrawn
                if not used.any():
                    continue
                batch = {name: array[used] for name, array in batch.items()}
                pcm = [name for name, array in batch.items() if array.dtype == np.int16]
                yield batch | {name: batch[name] / np.float32(32767) for name in pcm}
