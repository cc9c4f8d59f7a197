"""Where metrics are written, and how their JSON lines are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TextIO

from tensorboardX import SummaryWriter

from jen1_numpy.files import write_text
from jen1_numpy.registry import Registry


class Writer(Protocol):
    """Writes metrics; made of the folder of a run's part and the first step of the training.

    What it holds of later steps is to be replaced: it was written after the checkpoint from which
    training goes on.
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """Appends records to `metrics.jsonl`."""

    def __init__(self, directory: Path, start: int):
        self._file = reopen(directory / "metrics.jsonl", start + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        append(self._file, {"step": step} | {name: float(v) for name, v in scalars.items()})

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Writes events to `tensorboard/`."""

    def __init__(self, directory: Path, start: int):
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


WRITERS = Registry("writer of metrics", {"jsonl": JsonLines, "tensorboard": TensorBoard})


def reopen(path: Path, step: int) -> TextIO:
    """The JSON lines at `path`, to be appended to, without the records from `step` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [line for line in read_metrics(path) if line["step"] < step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return path.open("a")


def append(file: TextIO, record: Mapping) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()


def read_metrics(path: Path) -> list[dict]:
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
