"""Clips that training cannot read: named, counted, remembered, and too many of them refused."""

import json
import logging
import threading

from jen1_jax.files import AnyPath, write_text
from jen1_numpy.errors import Refusal

log = logging.getLogger("jen1_jax.data")


class Damages:
    """The damaged clips of a run. Threads may share it.

    Args:
        folder: of the run's part. Each process writes what it finds to a file of its own there, and
            a process that starts reads the files of all; so no clip comes back after a restart.
        most: clips; more of them end the run.
        process: the number of this process.
    """

    def __init__(self, folder: AnyPath | None = None, most: int = 0, process: int = 0):
        self._file = folder and folder / f"damaged-{process}.jsonl"
        self._most, self._lock = most, threading.Lock()
        self._found: set[tuple[int, int]] = set()
        self._lines: list[str] = []  # of this process's file
        for path in sorted(folder.glob("damaged-*.jsonl")) if folder else ():
            try:
                texts = path.read_text().splitlines()
                lines = [json.loads(line) for line in texts]
                if path == self._file:
                    self._lines = texts
                self._found.update((line["set"], line["clip"]) for line in lines)
            except (ValueError, KeyError, TypeError) as error:
                raise Refusal(f"{path} is unreadable ({error}); mend or delete it.") from None

    def __contains__(self, clip: tuple[int, int]) -> bool:
        return clip in self._found

    def add(self, number: int, place: int, what: str, damage: Exception) -> None:
        """Counts the clip at `place` in the data set with this number; `what` names it."""
        with self._lock:
            if (number, place) in self._found:
                return
            self._found.add((number, place))
            self._last = f"{what}: {damage}"
            if self._most:
                log.warning(f"{what} is damaged and is left out: {damage}")
            if self._file:
                line = {"set": number, "clip": place, "what": what, "damage": str(damage)}
                self._lines.append(json.dumps(line))
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_text(self._file, "\n".join(self._lines) + "\n")

    def check(self) -> None:
        """Refuses to go on where there are too many."""
        if len(self._found) > self._most:
            allowed = f", and data.most_damaged allows {self._most}" if self._most else ""
            last = getattr(self, "_last", "see damaged-*.jsonl in the run's folder")
            raise Refusal(
                f"{len(self._found)} clips are damaged{allowed} (the last is {last}); mend the "
                "data with `jen1 data validate --repair`."
            )
