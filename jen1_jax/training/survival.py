"""Keeps a training alive or ends it in good order: stopped by a signal, diverged, or hung."""

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jen1_jax.files import AnyPath
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.training.hooks import Hook
from jen1_jax.training.step import TrainState
from jen1_numpy.errors import Refusal

MAX_ROLL_BACKS = 3  # to the same updates
COMPILING = 4  # times as long as other steps may take the first, which compiles
LAG = 2  # steps from asking all processes to reading their answer


class Interrupted(Exception):
    """Training was asked to stop (SIGINT, SIGTERM); its state has been saved."""


@contextmanager
def agreed_stop(mesh: Mesh) -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question with the same answer in every process.

    All processes of the mesh ask it once after every step, and stop when it is true. With several
    of them, each sends over the mesh whether it has received a signal, and reads `LAG` steps later
    whether one of them had. So they stop at the same step, and none waits for a step that has just
    been started. JAX's own notice of a preemption is SIGTERM too, and this handler takes its place.
    A second SIGINT raises KeyboardInterrupt at once.
    """
    received, asked = [], deque()
    per_device = NamedSharding(mesh, P(mesh.axis_names))
    any_device = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))

    def handle(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    def stopped() -> bool:
        if jax.process_count() == 1:
            return bool(received)
        own = np.array([bool(received)])
        flags = jax.make_array_from_callback((mesh.size,), per_device, lambda place: own)
        asked.append(any_device(flags))
        return len(asked) > LAG and bool(asked.popleft())

    try:
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, handle) for number in signals}
    except ValueError:  # not the main thread, which alone may handle signals
        previous = {}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class RollBack:
    """Brings back the newest checkpoint when many steps in a row had to be skipped.

    Training goes on with the batches that follow, so that bad data are passed and not read again.
    """

    def __init__(self, name: str, checkpoints: Checkpoints, progress: Callable[[str], None]):
        self._name, self._checkpoints, self._progress = name, checkpoints, progress
        self._updates, self._count = -1, 0  # of the state that came back, and how often it did

    def __call__(self, state: TrainState, step: int) -> TrainState:
        """The newest checkpoint, with `step` as its place in the data; frees `state`.

        Raises `Refusal` where there is no checkpoint, or where it has come back `MAX_ROLL_BACKS`
        times already.
        """
        advice = (
            "lower the learning rate, or look at skipped.jsonl, which names the examples, and for "
            "bad data with `jen1 data validate`."
        )
        if self._checkpoints.latest is None:
            raise Refusal(
                f"The last steps of {self._name} were all skipped, and there is no checkpoint yet "
                f"to return to: {advice}"
            )
        shaped = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        abstract = jax.tree.map(shaped, state)
        jax.tree.map(lambda leaf: leaf.delete(), state)  # the memory may not suffice for two
        state, _ = self._checkpoints.restore(abstract)
        updates = int(state.updates)
        self._count = self._count + 1 if updates == self._updates else 1
        self._updates = updates
        if self._count > MAX_ROLL_BACKS:
            raise Refusal(
                f"{self._name} has returned {MAX_ROLL_BACKS} times to the same checkpoint, and its "
                f"steps are still skipped; the checkpoint is whole: {advice}"
            )
        self._progress(
            f"{self._name}: the last steps were all skipped; returned to the state after "
            f"{updates} updates, and goes on with the batch of step {step}"
        )
        return state.replace(step=jax.device_put(np.int32(step), state.step.sharding))


class Watchdog(Hook):
    """Ends the process where no step has ended for `seconds` (0: never), with all its stacks.

    They go to stderr and to `hang-PROCESS.txt` in `directory`. The status is that of a training
    that was stopped: the same command goes on from the last checkpoint.
    """

    def __init__(self, directory: AnyPath, seconds: float):
        self._path = directory / f"hang-{jax.process_index()}.txt"
        self._seconds, self._deadline = seconds, 0.0
        self._closed = threading.Event()

    def start(self, step: int) -> None:
        self._deadline = time.monotonic() + COMPILING * self._seconds
        if self._seconds > 0:
            threading.Thread(target=self._watch, daemon=True).start()

    def after_step(self, step: int) -> None:
        self._deadline = time.monotonic() + self._seconds

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if self._closed.wait(left):
                return
        said = f"jen1: no step has ended for {self._seconds:g} s (hang_after); the stacks:\n"
        os.write(2, said.encode())
        faulthandler.dump_traceback(2)
        # A folder that hangs or is full must not keep the process.
        threading.Timer(10, os._exit, (os.EX_TEMPFAIL,)).start()
        with contextlib.suppress(OSError), self._path.open("w") as file:
            faulthandler.dump_traceback(file)
        os._exit(os.EX_TEMPFAIL)  # without waiting for what hangs
