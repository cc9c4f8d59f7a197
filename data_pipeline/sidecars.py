"""Reads the small files beside a recording, which may be anything that has the right name."""

import json
import os
from pathlib import Path
from typing import Any

MAX_BYTES = 256_000
MAX_DEPTH = 50  # of lists and objects in each other


def read_text(path: Path, folder: Path | None = None) -> str | None:
    """The text of a file in UTF-8, with or without a byte-order mark; None if there is none.

    Raises:
        ValueError: it is no regular file, is too large, is no UTF-8, cannot be read, or is a link
            out of `folder`.
    """
    if not os.path.lexists(path):  # also where the name would be too long
        return None
    if not os.path.isfile(path):  # reading a pipe or a device might never end
        raise ValueError("it is no regular file")
    if folder and outside(path, folder):
        raise ValueError("it is a link out of the source's folder")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(error.strerror) from None
    return decode(content)


def decode(content: bytes) -> str:
    """The text of at most `MAX_BYTES`. Raises ValueError for more, and if it is no UTF-8."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    return content.decode("utf-8-sig")


def parse(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError for other texts, and if it cannot be stored."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    if not _flat(fields, MAX_DEPTH):
        raise ValueError("it is nested too deeply")
    storable(fields)
    return fields


def storable(fields: dict[str, Any]) -> None:
    """Raises ValueError if a text in JSON values is no Unicode, such as half a surrogate pair."""
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise ValueError(f"its text holds {character!r}, which is not UTF-8") from None


def is_texts(value: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def texts(value: str | list[str] | None) -> list[str]:
    """The texts of a field that holds one, several or none."""
    return [value] if isinstance(value, str) else value or []


def outside(path: Path, folder: Path) -> bool:
    """Whether a path leads out of `folder` by links."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _flat(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return True
    return depth > 0 and all(_flat(each, depth - 1) for each in inner)
