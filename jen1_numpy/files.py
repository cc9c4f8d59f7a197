"""Local paths, and writing that leaves a whole file under its final name, or none."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from jen1_numpy.errors import Refusal


def local(path: str | os.PathLike) -> Path:
    """`path` on this machine; raises `Refusal` for a URL, which would become a folder's name."""
    text = os.fspath(path)
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]+(?=:/)", text):
        raise Refusal(
            f"{text} is a URL ({scheme[0]}:), and only local paths can be read and written; "
            "mount or copy it, and give the local path."
        )
    return Path(text)


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to, which is renamed to `path` when the block ends, or deleted if it raises.

    Several processes may write the same file: the last one wins.
    """
    path = local(path)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file (UTF-8), whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
