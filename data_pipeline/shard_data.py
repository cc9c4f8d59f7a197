"""Prepared shards as what the training loop reads."""

from collections.abc import Iterator, Sequence
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
    ):
        about = stream.info(folder)
        self.description: dict[str, Any] = {
            "dir": folder,
            "kind": about.kind,
            "length": about.shape[0],  # of an example: samples, or latent frames
            "fields": stream.fields(about, whole=crop is None),
            "examples": dict(about.examples),
            "licences": dict(about.licences),
            "limit": limit,
            "seed": seed,
            "batch_size": batch_size,
        }
        if about.fingerprint:
            self.description["fingerprint"] = about.fingerprint["autoencoder"]
            if "text" in about.fingerprint:
                self.description["text_fingerprint"] = about.fingerprint["text"]
        self._folder, self._batch_size = folder, batch_size
        self._options = {"seed": seed, "crop": crop, "limit": limit, "prefetch": prefetch}

    def captions(self) -> list[str]:
        """The distinct captions of the training split."""
        return stream.captions(self._folder, "train")

    def batches(
        self, start_step: int, around: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches of the training split from `start_step` on; of each only the `rows`.

        Whole waveforms come with `around` samples of audio on both sides, as in `stream.batches`.
        """
        return stream.batches(
            self._folder,
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
        """One pass over the whole records of a split in order; empty if there is no such split.

        Of all, or of at most `limit`; a `share` is that of a process, as in `training.loop.Data`.
        Waveforms come with `around` samples of audio on both sides, as in `stream.batches`.
        """
        if split not in self.description["examples"]:
            return iter(())
        process, processes = share
        limits = [each for each in (limit, self._options["limit"]) if each]
        return stream.batches(
            self._folder,
            split,
            processes * (size := min(self._batch_size, 8)),
            rows=range(process * size, (process + 1) * size),
            shuffle=False,
            epochs=1,
            limit=min(limits, default=0),
            around=around,
        )
