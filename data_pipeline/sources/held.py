"""Recordings on this machine: those in a bucket are copied, one at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from data_pipeline.sidecars import MAX_BYTES
from data_pipeline.sources.folder import SIDECARS, Folder
from data_pipeline.sources.items import Entry, Item, Rejection, Source, unsupported
from data_pipeline.sources.manifests import Manifest
from jen1_jax.files import AnyPath, StoreError, beginning, download, listing
from jen1_numpy.errors import Refusal


@contextmanager
def held(
    source: Source, id: str, entries: Sequence[Entry], folder: Path
) -> Iterator[Item | Rejection]:
    """The recording that `entries` list, whose audio can be read until the block ends.

    If it lies in a bucket, it is copied into `folder` as long as that.

    Raises:
        StoreError: the bucket cannot be read. A recording that cannot be copied from a bucket that
            can be read is rejected instead.
    """
    if not isinstance(source, Folder | Manifest):
        yield source.item(id, entries)
        return
    try:
        place = source.place(id)
    except Refusal as refusal:
        yield Rejection(id, "unreadable", str(refusal))
        return
    if isinstance(place, Path):
        yield source.item(id, entries)
        return
    with TemporaryDirectory(dir=folder) as temporary:
        copy = Path(temporary, "audio").with_suffix(place.suffix)
        sidecars = SIDECARS if isinstance(source, Folder) else ()
        yield unsupported(id) or _copy(id, place, copy, sidecars) or source.item(id, entries, copy)


def _copy(id: str, place: AnyPath, copy: Path, sidecars: Sequence[str]) -> Rejection | None:
    """Copies a file and what is beside it; returns the reason if that cannot be done."""
    try:
        download(place, copy)
        for suffix in sidecars:
            with suppress(FileNotFoundError):
                content = beginning(place.with_suffix(suffix), MAX_BYTES + 1)
                copy.with_suffix(suffix).write_bytes(content)
    except FileNotFoundError:
        return Rejection(id, "missing")
    except StoreError as error:
        next(listing(place.parent), None)  # it raises if not only this file is the reason
        return Rejection(id, "unreadable", str(error))
    return None
