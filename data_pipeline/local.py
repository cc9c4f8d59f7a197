"""Prepares units on this machine, in processes that may crash, hang or grow without harm.

A recording in whose decoder a process has died twice, or that has taken too long, is rejected, and
its unit is done again without it.
"""

import os
import resource
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

from data_pipeline.units import Plan, Unit, prepare_unit
from jen1_jax.files import Unfinished
from jen1_numpy.errors import Refusal

MAX_SECONDS = 600  # without a new block of a recording
MAX_BYTES = 4 * 2**30  # of address space that a process may take, beyond what it starts with
TRIES = 2  # of a recording at which a process dies


def prepare_units(plan: Plan, units: Iterable[Unit], jobs: int) -> Iterator[int]:
    """Prepares units in `jobs` processes, and yields their numbers as they are complete.

    A new unit begins only when the next number is asked for. With one job everything is done in
    this process, without limits. The processes end at once if the caller stops, or dies.

    Raises:
        OSError: a shard cannot be written.
        Unfinished: processes die again and again outside of any recording.
    """
    if jobs == 1:
        for unit in units:
            prepare_unit(plan, unit, lambda id: None)
            yield unit.number
        return
    waiting, pool, deaths = iter(units), [], Counter()
    try:
        while True:
            for worker in pool:
                if worker.unit is None and (unit := next(waiting, None)):
                    worker.give(unit)
            while len(pool) < jobs and (unit := next(waiting, None)):
                pool.append(_Worker(plan))
                pool[-1].give(unit)
            busy = [worker for worker in pool if worker.unit]
            if not busy:
                return
            wait([worker.connection for worker in busy], timeout=1)
            for worker in busy:
                slow = False
                if worker.connection.poll():
                    if (number := worker.listen()) is not None:
                        yield number
                elif slow := time.monotonic() - worker.heard > MAX_SECONDS:
                    worker.end()
                if worker.ended:
                    pool.remove(worker)
                    pool.append(_Worker(plan))
                    pool[-1].give(_without(worker, deaths, slow))
    finally:
        for worker in pool:
            worker.end()


def _without(worker: "_Worker", deaths: Counter, slow: bool) -> Unit:
    """The unit of a process that has died, without the recording that killed it."""
    unit, id = worker.unit, worker.recording
    deaths[unit.number, id] += 1
    if slow:
        reason = "too slow"
    elif deaths[unit.number, id] < TRIES:
        return unit  # something else may have killed it
    elif id is None:
        raise Unfinished(
            f"The processes that prepare audio die (exit code {worker.process.returncode}); "
            "use fewer --jobs if the memory is full."
        )
    else:
        reason = "crashed the decoder"
    return replace(unit, unusable=unit.unusable | {id: reason})


@dataclass
class _Worker:
    """A process that prepares one unit after the other."""

    plan: Plan
    unit: Unit | None = None  # at which it works
    recording: str | None = None  # that it decodes
    heard: float = inf  # when it last told something of its unit
    ended: bool = False
    connection: Connection = field(init=False)
    process: subprocess.Popen = field(init=False)

    def __post_init__(self):
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
                stdin=theirs.fileno(),
                env=os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C is for the process that started it
            )
        self.connection = Connection(ours.detach())
        with suppress(OSError):  # it has died already, which `listen` finds
            self.connection.send(self.plan)

    def give(self, unit: Unit) -> None:
        self.unit, self.recording, self.heard = unit, None, inf
        with suppress(OSError):
            self.connection.send(unit)

    def listen(self) -> int | None:
        """Takes what it tells: the number of the unit if that is complete.

        Raises what the process has raised.
        """
        try:
            told = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            return None
        self.heard = time.monotonic()
        if isinstance(told, Exception):
            raise told
        if isinstance(told, str):
            self.recording = told
            return None
        self.unit = None
        return told

    def end(self) -> None:
        self.ended = True
        self.process.kill()
        self.process.wait()
        self.connection.close()


def serve() -> NoReturn:
    """Prepares the units that the process at the other end of the standard input sends."""
    connection, units = Connection(os.dup(sys.stdin.fileno())), SimpleQueue()
    plan = connection.recv()
    threading.Thread(target=_receive, args=(connection, units), daemon=True).start()
    said, at = None, 0.0

    def alive(id: str) -> None:
        nonlocal said, at
        if id != said or time.monotonic() - at > 1:
            said, at = id, time.monotonic()
            connection.send(id)

    _limit_memory()
    try:
        while True:
            unit = units.get()
            prepare_unit(plan, unit, alive)
            connection.send(unit.number)
    except (OSError, Refusal) as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))
    os._exit(1)


def _receive(connection: Connection, units: SimpleQueue) -> None:
    """Ends this process when the other one has ended, whatever it does at the moment."""
    try:
        while True:
            units.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)


def _limit_memory() -> None:
    """Lets allocations fail that would take too much."""
    used = Path("/proc/self/statm")
    pages = int(used.read_text().split()[0]) if used.exists() else 0
    most = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
