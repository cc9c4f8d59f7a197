"""Hashes: 64 bits of a text, and the SHA-256 of a file."""

import hashlib
from pathlib import Path


def hashed(text: str) -> int:
    """64 bits that depend on `text` alone."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
