"""Where metrics are written, and how their JSON lines are read."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from tensorboardX import SummaryWriter

from jen1_jax.files import AnyPath, write_text
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

    def __init__(self, directory: AnyPath, start: int):
        self._file = Lines(directory / "metrics.jsonl", start + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._file.append({"step": step} | {name: float(v) for name, v in scalars.items()})

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Writes events to `tensorboard/`."""

    def __init__(self, directory: AnyPath, start: int):
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


UPLOAD_EVERY = 60  # seconds
WRITERS = Registry("writer of metrics", {"jsonl": JsonLines, "tensorboard": TensorBoard})


class Lines:
    """The JSON lines at `path`, to be appended to, without the records from `step` on.

    A store cannot append to an object. There the whole file is uploaded at the end, and with a
    record for which `UPLOAD_EVERY` seconds have passed since the last time.
    """

    def __init__(self, path: AnyPath, step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] < step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(path, text)
        self._path, self._closing, self._sent = path, ExitStack(), time.monotonic()
        if isinstance(path, Path):
            self._local = path
        else:
            self._local = Path(self._closing.enter_context(TemporaryDirectory())) / path.name
            self._local.write_text(text)
        self._file = self._closing.enter_context(self._local.open("a"))

    def append(self, record: Mapping) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if time.monotonic() - self._sent > UPLOAD_EVERY:
            self._upload()

    def close(self) -> None:
        self._upload()
        self._closing.close()

    def _upload(self) -> None:
        if self._local != self._path:
            self._file.flush()
            write_text(self._path, self._local.read_text())
            self._sent = time.monotonic()


def read_metrics(path: AnyPath) -> list[dict]:
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
