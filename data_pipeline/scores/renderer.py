"""Renders scores in processes of their own, which share the soundfonts.

The synthesiser holds Python's lock while it renders, and is written in C, where a damaged soundfont
may crash it. So one process, without TensorFlow and without threads, opens the soundfonts once. It
forks a child for each score, which uses the soundfonts without copying them.
"""

import math
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np

from data_pipeline.scores.reading import read
from data_pipeline.scores.rendering import open_soundfont, render
from jen1_numpy.errors import Refusal

MAX_CPU_SECONDS = 300  # for one score, or to open a soundfont


class Renderer:
    """Renders scores with one of several soundfonts; threads may call it at the same time.

    Raises:
        Refusal: a file is no soundfont, or the synthesiser cannot play it.
    """

    def __init__(self, soundfonts: Sequence[Path]):
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        command = f"from {__name__} import serve; serve({theirs.fileno()})"
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-c", command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A fork copies no threads, so the server must have none.
                env=os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
            )
        for path in soundfonts:
            if self._ask(path) is None:
                raise Refusal(f"{path} makes the synthesiser crash; give another soundfont.")

    def render(self, score: Path, id: str, soundfont: Path) -> np.ndarray:
        """Float32 [samples, 2] at 48 kHz; see `reading.read` and `rendering.render`.

        Raises:
            Refusal: the score cannot be read, or cannot be rendered.
        """
        answer = self._ask(soundfont, score, id)
        if answer is None:
            raise Refusal(f"Its process crashed, or took more than {MAX_CPU_SECONDS} s.")
        return np.frombuffer(answer, np.float32).reshape(-1, 2)

    def _ask(self, soundfont: Path, *score) -> bytes | None:
        """What a child answers, or None if it died; without a score, it tries the soundfont."""
        ours, theirs = Pipe()
        with ours:
            try:
                with theirs, self._lock:
                    socket.send_fds(self._control, [b"."], [theirs.fileno()])
                ours.send((soundfont, *score))
                refusal, answer = ours.recv(), ours.recv_bytes()
            except (EOFError, OSError):
                return None
        if refusal:
            raise Refusal(refusal)
        return answer


def serve(control: int) -> None:
    """Answers what a `Renderer` asks, each in a child, until that process has ended.

    Args:
        control: file descriptor of a socket that brings the connections on which it asks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    source, soundfonts = socket.socket(fileno=control), {}
    while received := socket.recv_fds(source, 1, 1)[1]:
        with Connection(received[0]) as connection:
            try:
                path, *score = connection.recv()
                if path not in soundfonts:
                    with _cpu_limit():
                        soundfonts[path] = open_soundfont(path)
            except EOFError:
                continue
            except Refusal as refusal:
                _send(connection, str(refusal))
                continue
            if not os.fork():
                source.close()
                _answer(connection, soundfonts[path], *score)


def _answer(connection: Connection, soundfont, *score) -> NoReturn:
    """Does the job of a child and ends it."""
    try:
        with _cpu_limit():
            audio = render(read(*score), soundfont) if score else _try(soundfont)
        _send(connection, "", audio)
    except Refusal as refusal:
        _send(connection, str(refusal))
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def _send(connection: Connection, refusal: str, audio=b"") -> None:
    with suppress(BrokenPipeError):  # the process that asked has ended
        connection.send(refusal)
        connection.send_bytes(audio)


def _try(soundfont) -> bytes:
    """Plays each instrument for a moment; a damaged soundfont may crash the synthesiser."""
    buffer = bytearray(8 * 960)
    for index in range(soundfont.get_preset_count()):
        for pitch in (36, 60, 84):
            soundfont.note_on(index, pitch, 1.0)
            soundfont.render(buffer)
            soundfont.note_off(index, pitch)
    return b""


@contextmanager
def _cpu_limit() -> Iterator[None]:
    """Kills this process if the block takes more than `MAX_CPU_SECONDS` of processor time."""
    before, most = resource.getrlimit(resource.RLIMIT_CPU)
    limit = math.ceil(time.process_time()) + MAX_CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))
    yield
    resource.setrlimit(resource.RLIMIT_CPU, (before, most))
