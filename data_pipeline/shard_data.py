"""Prepared shards as what the training loop reads."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline import stream


class ShardData:
    """The batches of a data set, for training and in order; `description` names the data.

    The arguments are those of `stream.batches`.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int,
        seed: int,
        *,
        crop: int | None = None,
        limit: int = 0,
        prefetch: int = 2,
        process_index: int = 0,
        process_count: int = 1,
    ):
        about = stream.info(folder)
        self.description: dict[str, Any] = {
            "dir": folder,
            "kind": about.kind,
            "length": about.shape[0],  # of an example: samples, or latent frames
            "fields": stream.fields(about, whole=crop is None),
            "examples": dict(about.examples),
            "limit": limit,
            "seed": seed,
            "batch_size": batch_size,
        }
        if about.fingerprint:
            self.description["fingerprint"] = about.fingerprint["autoencoder"]
            if "text" in about.fingerprint:
                self.description["text_fingerprint"] = about.fingerprint["text"]
        self._folder, self._batch_size = folder, batch_size
        self._process = {"process_index": process_index, "process_count": process_count}
        self._options = {"seed": seed, "crop": crop, "limit": limit, "prefetch": prefetch}

    def captions(self) -> list[str]:
        """The distinct captions of the training split."""
        return stream.captions(self._folder, "train")

    def batches(self, start_step: int, around: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches of the training split from `start_step` on.

        Whole waveforms come with `around` samples of audio on both sides, as in `stream.batches`.
        """
        return stream.batches(
            self._folder,
            "train",
            self._batch_size,
            start_step=start_step,
            around=around,
            **self._options,
            **self._process,
        )

    def sweep(self, split: str, around: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """One pass over the whole records of a split in order; empty if there is no such split.

        Waveforms come with `around` samples of audio on both sides, as in `stream.batches`.
        """
        if split not in self.description["examples"]:
            return iter(())
        return stream.batches(
            self._folder,
            split,
            min(self._batch_size, 8),
            shuffle=False,
            epochs=1,
            limit=self._options["limit"],
            around=around,
        )
