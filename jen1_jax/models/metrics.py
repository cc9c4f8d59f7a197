"""Metrics on disk: one JSON line a record, and the same scalars as TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from jen1_jax.files import write_text


class MetricsWriter:
    """Appends to `metrics.jsonl` and `tensorboard/` in `directory`; records after `start_step` are of a lost run, and go."""

    def __init__(self, directory: Path, start_step: int):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= start_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._file.write(
            json.dumps({"step": step} | {name: float(value) for name, value in scalars.items()})
            + "\n"
        )
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The records of a `metrics.jsonl`; an unfinished last line is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
