"""Writes metrics as JSON lines and as TensorBoard events, and reads the JSON lines."""

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from jen1_jax.files import write_text


class MetricsWriter:
    """Appends records to `metrics.jsonl` and `tensorboard/` in `directory`.

    Records after `start_step` are deleted: they were written after the checkpoint from which
    training continues.
    """

    def __init__(self, directory: Path, start_step: int):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= start_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        record = {"step": step} | {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The records of a `metrics.jsonl`; an incomplete last line is ignored."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
