"""The sources that read a manifest: a CSV or JSONL file that lists audio files.

Besides `path`, a line may have `caption`, `split` ("train" or "test") and metadata, and in JSONL
`captions` (a list).
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.sources.items import Item, Rejection, file_item, refused
from jen1_numpy.errors import Refusal


def from_csv(manifest: Path) -> Iterator[Item | Rejection]:
    """The files that the rows of a CSV file with a header list; empty cells are left out."""
    with open(manifest, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if "path" not in (rows.fieldnames or ()):
            raise Refusal(
                f"{manifest} has no column named path; "
                f"its columns are {', '.join(rows.fieldnames or ['none'])}."
            )
        for row in rows:
            row.pop(None, None)  # cells beyond the header
            fields = {key: value for key, value in row.items() if value}
            yield _listed(manifest, rows.line_num, fields)


def from_jsonl(manifest: Path) -> Iterator[Item | Rejection]:
    """The files that the lines of a JSONL file list, one JSON object a line."""
    with open(manifest, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _listed(manifest, number, dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                yield Rejection(f"{manifest.name}:{number}", "unreadable line", str(error))


def _listed(manifest: Path, line: int, fields: dict) -> Item | Rejection:
    """The item of one line: `path` is absolute, or in the manifest's folder and relative to it."""
    listed = fields.pop("path", None)
    if not isinstance(listed, str) or not listed:
        return Rejection(f"{manifest.name}:{line}", "unreadable line", "no path")
    path = Path(listed)
    if not path.is_absolute():
        normal = os.path.normpath(listed)
        if normal.split(os.sep)[0] == os.pardir:
            return Rejection(
                listed,
                "outside the manifest's folder",
                "write an absolute path if it is meant",
            )
        path = manifest.parent / normal
    return refused(listed, path) or file_item(listed, path, fields)
